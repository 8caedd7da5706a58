// Pooling for one instruction set, over vectors of channels.
#include "pooling.h"

#include "vectors.h"

namespace stn::STN_LEVEL {
namespace {

template <int W>
using Float = Vector<float, W>;

// Calls f(offset, number) for each pixel of a window, in order; the number is a float, so that
// vectors of it can be compared.
template <class F>
STN_INLINE void for_window(const Pooling& p, const F& f) {
  float number = 0;
  for (int64_t i = 0; i < p.size; ++i)
    for (int64_t j = 0; j < p.size; ++j) f((i * p.width + j) * p.channels, number++);
}

// Whether `best` is kept: the first of equal maxima wins, and NaN over everything.
template <class F>
STN_INLINE auto is_kept(F best, F other) {
  return (best >= other) | (best != best);
}

// Calls f(width, window's offset in x, offset in the output) for all vectors of an output row.
template <class F>
STN_INLINE void for_row(const Pooling& p, int64_t row, const F& f) {
  const int64_t image = row / p.out_height, y = row % p.out_height;
  const int64_t from = (image * p.height + y * p.size) * p.width * p.channels;
  const int64_t to = row * p.out_width * p.channels;
  for (int64_t x = 0; x < p.out_width; ++x)
    by_vectors<kLanes<float>>(0, p.channels, [&](auto width, int64_t c) {
      f(width, from + x * p.size * p.channels + c, to + x * p.channels + c);
    });
}

void select(const Pooling& p, const float* x, const float* values, int64_t first, int64_t last,
            float* selected) {
  for (int64_t row = first; row < last; ++row)
    for_row(p, row, [&](auto width, int64_t from, int64_t to) {
      constexpr int W = decltype(width)::value;
      Float<W> best = load<float, W>(x + from), value = load<float, W>(values + from);
      for_window(p, [&](int64_t offset, float) {
        const Float<W> other = load<float, W>(x + from + offset);
        const auto keep = is_kept(best, other);
        best = keep ? best : other;
        value = keep ? value : load<float, W>(values + from + offset);
      });
      store<float, W>(selected + to, value);
    });
}

void transpose(const Pooling& p, const float* x, const float* selected, int64_t first, int64_t last,
               float* values) {
  const int64_t row_size = p.width * p.channels;
  for (int64_t row = first; row < last; ++row) {
    const int64_t image = row / p.out_height, y = row % p.out_height;
    float* image_values = values + image * p.height * row_size;
    for (int64_t i = y * p.size; i < (y + 1) * p.size; ++i)
      for (int64_t k = p.out_width * p.size * p.channels; k < row_size; ++k)
        image_values[i * row_size + k] = 0;
    if (y == p.out_height - 1)
      for (int64_t k = p.out_height * p.size * row_size; k < p.height * row_size; ++k)
        image_values[k] = 0;
    for_row(p, row, [&](auto width, int64_t from, int64_t to) {
      constexpr int W = decltype(width)::value;
      Float<W> best = load<float, W>(x + from), position = {};
      for_window(p, [&](int64_t offset, float number) {
        const Float<W> other = load<float, W>(x + from + offset);
        const auto keep = is_kept(best, other);
        best = keep ? best : other;
        position = keep ? position : Float<W>{} + number;
      });
      const Float<W> value = load<float, W>(selected + to);
      for_window(p, [&](int64_t offset, float number) {
        const auto here = position == Float<W>{} + number;
        store<float, W>(values + from + offset, here ? value : Float<W>{});
      });
    });
  }
}

}  // namespace

PoolingKernels find_pooling_kernels() { return {select, transpose}; }

}  // namespace stn::STN_LEVEL

// Convolutions for one instruction set, as products of tiles that stay in registers.
#include "convolution.h"

#include "vectors.h"

namespace stn::STN_LEVEL {
namespace {

constexpr int kWidth = kLanes<float>;
using Float = Vector<float, kWidth>;

// Rows of a tile of V vectors: as many sums as fit into the registers, and for a single vector as
// many as hide the latency of a multiply-add.
template <int V>
constexpr int kRows = V == 1 || kVectorBytes == 64 ? 8 : 12 / V;

template <int V>
struct Tile {
  Float sum[kRows<V>][V];

  STN_INLINE void clear() {
    for (int i = 0; i < kRows<V>; ++i)
      for (int v = 0; v < V; ++v) sum[i][v] = Float{};
  }

  // sum += rows times a panel. The values of row i for a run start at row[i] + run.offset.
  STN_INLINE void multiply(const float* const* row, const Run* run, const Run* end,
                           const float* panel) {
    for (; run != end; ++run) {
      const float* a[kRows<V>];
      for (int i = 0; i < kRows<V>; ++i) a[i] = row[i] + run->offset;
      for (int64_t k = 0; k < run->length; ++k, panel += V * kWidth) {
        Float b[V];
        for (int v = 0; v < V; ++v) b[v] = load<float, kWidth>(panel + v * kWidth);
        for (int i = 0; i < kRows<V>; ++i)
          for (int v = 0; v < V; ++v) sum[i][v] += a[i][k] * b[v];
      }
    }
  }

  // sum += for each of `count` pixels, row i's value at row[i] + offset times a vector of features.
  STN_INLINE void accumulate(const float* const* row, const int64_t* offset, int64_t count,
                             const float* features, int64_t stride) {
    for (int64_t p = 0; p < count; ++p, features += stride) {
      Float b[V];
      for (int v = 0; v < V; ++v) b[v] = load<float, kWidth>(features + v * kWidth);
      const int64_t at = offset[p];
      for (int i = 0; i < kRows<V>; ++i)
        for (int v = 0; v < V; ++v) sum[i][v] += row[i][at] * b[v];
    }
  }

  // to[i * stride + c] = sum (+= if `add`), for the first `rows` and `columns`.
  STN_INLINE void put(float* to, int64_t stride, int64_t rows, int64_t columns, bool add) const {
    for (int i = 0; i < kRows<V>; ++i) {
      if (i >= rows) return;
      if (columns == V * kWidth) {
        add ? add_row(i, to + i * stride) : spill(i, to + i * stride);
      } else {
        float from[V * kWidth];
        spill(i, from);
        for (int64_t c = 0; c < columns; ++c) {
          float* out = to + i * stride + c;
          *out = add ? *out + from[c] : from[c];
        }
      }
    }
  }

  STN_INLINE void spill(int i, float* to) const {
    for (int v = 0; v < V; ++v) store<float, kWidth>(to + v * kWidth, sum[i][v]);
  }

  STN_INLINE void add_row(int i, float* to) const {
    for (int v = 0; v < V; ++v) {
      const Float old = load<float, kWidth>(to + v * kWidth);
      store<float, kWidth>(to + v * kWidth, old + sum[i][v]);
    }
  }
};

// Calls f(Width<V>{}) with the number of vectors of a panel.
template <class F>
STN_INLINE void with_vectors(int64_t vectors, const F& f) {
  if (vectors == 1) f(Width<1>{});
  if (vectors == 2) f(Width<2>{});
  if (vectors == 3) f(Width<3>{});
}

STN_INLINE int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

// The offsets in the input of the windows of pixels [first, last).
STN_INLINE void find_offsets(const Convolution& c, int64_t first, int64_t last, int64_t* offset) {
  int64_t x = first % c.out_width, y = first / c.out_width % c.out_height;
  int64_t image = first / c.out_width / c.out_height;
  for (int64_t p = first; p < last; ++p) {
    *offset++ = ((image * c.height + y) * c.width + x) * c.channels;
    if (++x == c.out_width) {
      x = 0;
      if (++y == c.out_height) y = 0, ++image;
    }
  }
}

// The offset of a tap in a window.
STN_INLINE int64_t tap_offset(const Convolution& c, int64_t tap) {
  const int64_t row = c.kernel_width * c.channels;
  return tap / row * c.width * c.channels + tap % row;
}

template <int V>
void output(const Convolution& c, const float* input, const Panels& kernel, const Blocks& taps,
            int64_t first, int64_t last, float* output) {
  int64_t offset[kPartPixels];
  find_offsets(c, first, last, offset);
  int64_t depth = 0;
  for (int64_t block = 0; block < taps.count; ++block) {
    const Run *run = taps.runs + taps.first_run[block], *end = taps.runs + taps.first_run[block + 1];
    for (int64_t column = 0; column < c.features; column += kernel.width) {
      const float* panel = kernel.data + column * kernel.depth + depth * kernel.width;
      for (int64_t p = 0; p < last - first; p += kRows<V>) {
        const float* row[kRows<V>];
        for (int i = 0; i < kRows<V>; ++i)
          row[i] = input + offset[least(p + i, last - first - 1)];
        Tile<V> tile;
        tile.clear();
        tile.multiply(row, run, end, panel);
        tile.put(output + (first + p) * c.features + column, c.features, last - first - p,
                 least(kernel.width, c.features - column), block > 0);
      }
    }
    for (; run != end; ++run) depth += run->length;
  }
}

template <int V>
void kernel_gradient(const Convolution& c, const float* input, const float* output, int64_t first,
                     int64_t last, int64_t first_tap, int64_t last_tap, float* sums) {
  constexpr int64_t kColumns = V * kWidth;
  const int64_t whole = c.features / kColumns * kColumns;
  for (int64_t begin = first; begin < last; begin += kStepPixels) {
    const int64_t count = least(kStepPixels, last - begin);
    int64_t offset[kStepPixels];
    find_offsets(c, begin, begin + count, offset);
    const float* features = output + begin * c.features;
    // Features that do not fill a panel are copied and padded with zeros.
    float rest[kStepPixels * kColumns];
    for (int64_t p = 0; whole < c.features && p < count; ++p)
      for (int64_t f = 0; f < kColumns; ++f)
        rest[p * kColumns + f] =
            whole + f < c.features ? features[p * c.features + whole + f] : 0.0f;
    for (int64_t tap = first_tap; tap < last_tap; tap += kRows<V>) {
      const float* row[kRows<V>];
      for (int i = 0; i < kRows<V>; ++i)
        row[i] = input + tap_offset(c, least(tap + i, last_tap - 1));
      for (int64_t column = 0; column < c.features; column += kColumns) {
        Tile<V> tile;
        tile.clear();
        if (column < whole)
          tile.accumulate(row, offset, count, features + column, c.features);
        else
          tile.accumulate(row, offset, count, rest, kColumns);
        tile.put(sums + tap * c.features + column, c.features, last_tap - tap,
                 least(kColumns, c.features - column), begin > first);
      }
    }
  }
}

// Adds the values of taps [tap, tap + count) of the window at (y, x) to an image, in its rows
// [first_row, last_row) only.
STN_INLINE void scatter(const Convolution& c, const float* value, int64_t tap, int64_t count,
                        int64_t y, int64_t x, int64_t first_row, int64_t last_row, float* image) {
  const int64_t length = c.kernel_width * c.channels;
  for (int64_t end = tap + count; tap < end;) {
    const int64_t row = tap / length, column = tap % length;
    const int64_t n = least(end - tap, length - column);
    if (y + row >= first_row && y + row < last_row) {
      float* to = image + ((y + row) * c.width + x) * c.channels + column;
      by_vectors<kWidth>(0, n, [&](auto width, int64_t k) {
        constexpr int W = decltype(width)::value;
        store<float, W>(to + k, load<float, W>(to + k) + load<float, W>(value + k));
      });
    }
    tap += n, value += n;
  }
}

template <int V>
void input_gradient(const Convolution& c, const float* output, const Panels& transposed,
                    int64_t first, int64_t last, int64_t first_row, int64_t last_row,
                    float* input) {
  const int64_t size = c.height * c.width * c.channels, row_size = c.width * c.channels;
  for (int64_t image = first; image < last; ++image)
    for (int64_t k = first_row * row_size; k < last_row * row_size; ++k) input[image * size + k] = 0;
  // The output rows whose windows reach these rows.
  const int64_t begin = first_row < c.kernel_height ? 0 : first_row - c.kernel_height + 1;
  const int64_t end = least(last_row, c.out_height);
  const int64_t per_image = (end - begin) * c.out_width, pixels = (last - first) * per_image;
  const Run all{0, c.features};
  const int64_t length = c.kernel_width * c.channels;
  // Panels that lie within a kernel row are added from registers. Otherwise several are stored side
  // by side first, so that few pieces are added per pixel.
  constexpr int64_t kColumns = V * kWidth, kGroup = 128 / kColumns * kColumns;
  const bool whole = length % kColumns == 0;
  const int64_t group = whole ? kColumns : kGroup;
  for (int64_t tap = 0; tap < c.taps; tap += group) {
    const int64_t count = least(group, c.taps - tap);
    int64_t image = first, y = begin, x = 0;
    for (int64_t p = 0; p < pixels; p += kRows<V>) {
      struct {
        int64_t image, y, x;
      } at[kRows<V>];
      const float* row[kRows<V>];
      for (int i = 0; i < kRows<V>; ++i) {
        at[i] = {image, y, x};
        row[i] = output + ((image * c.out_height + y) * c.out_width + x) * c.features;
        if (p + i + 1 >= pixels) continue;
        if (++x == c.out_width) {
          x = 0;
          if (++y == end) y = begin, ++image;
        }
      }
      float value[kRows<V>][kGroup];
      for (int64_t k = 0; k < count; k += kColumns) {
        Tile<V> tile;
        tile.clear();
        tile.multiply(row, &all, &all + 1, transposed.data + (tap + k) * transposed.depth);
        for (int i = 0; i < kRows<V> && p + i < pixels; ++i) {
          const int64_t y_to = at[i].y + tap / length;
          if (!whole)
            tile.spill(i, value[i] + k);
          else if (y_to >= first_row && y_to < last_row)
            tile.add_row(i, input + at[i].image * size + y_to * row_size + at[i].x * c.channels +
                                tap % length);
        }
      }
      for (int i = 0; !whole && i < kRows<V> && p + i < pixels; ++i)
        scatter(c, value[i], tap, count, at[i].y, at[i].x, first_row, last_row,
                input + at[i].image * size);
    }
  }
}

}  // namespace

ConvolutionKernels find_convolution_kernels() {
  return {
      kWidth,
      [](const Convolution& c, const float* x, const Panels& kernel, const Blocks& taps,
         int64_t first, int64_t last, float* out) {
        with_vectors(kernel.vectors, [&](auto v) {
          output<decltype(v)::value>(c, x, kernel, taps, first, last, out);
        });
      },
      [](const Convolution& c, const float* x, const float* out, int64_t vectors, int64_t first,
         int64_t last, int64_t first_tap, int64_t last_tap, float* sums) {
        with_vectors(vectors, [&](auto v) {
          kernel_gradient<decltype(v)::value>(c, x, out, first, last, first_tap, last_tap, sums);
        });
      },
      [](const Convolution& c, const float* out, const Panels& transposed, int64_t first,
         int64_t last, int64_t first_row, int64_t last_row, float* x) {
        with_vectors(transposed.vectors, [&](auto v) {
          input_gradient<decltype(v)::value>(c, out, transposed, first, last, first_row, last_row,
                                             x);
        });
      },
  };
}

}  // namespace stn::STN_LEVEL

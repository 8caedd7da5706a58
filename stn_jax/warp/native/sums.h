// Sums over the taps of one sample, and their adjoints: loops over taps and channels. Template
// parameters: type, channels (C; 0: any number) and taps (N; 0: any number).
#ifndef STN_JAX_SUMS_H_
#define STN_JAX_SUMS_H_

#include "taps.h"

#ifdef STN_LEVEL
namespace stn::STN_LEVEL {
namespace {

constexpr int kMaxTaps = 16;

// out[c] = start + sum over taps of weight * image[offset + c]; N taps, or `count` if N is 0.
// Unless `exact`, three channels are read and written as four.
template <class T, int C, int N>
STN_INLINE void blend(const T* image, const int64_t* offset, const T* weight, int count, T start,
                      int64_t channels, bool exact, T* out) {
  const int taps = N ? N : count;
  if constexpr (C == 3) {
    Vector<T, 4> sum = Vector<T, 4>{} + start;
    for (int k = 0; k < taps; ++k)
      sum += (N ? load<T, 4>(image + offset[k]) : load3(image + offset[k])) * weight[k];
    exact ? store3(out, sum) : store<T, 4>(out, sum);
  } else {
    const T* tap[N ? N : kMaxTaps];  // a local copy, which stores to `out` cannot alias
    for (int k = 0; k < taps; ++k) tap[k] = image + offset[k];
    by_vectors<C ? C : kLanes<T>>(0, C ? C : channels, [&](auto width, int64_t c) {
      constexpr int W = decltype(width)::value;
      Vector<T, W> sum = Vector<T, W>{} + start;
      for (int k = 0; k < taps; ++k) sum += load<T, W>(tap[k] + c) * weight[k];
      store<T, W>(out + c, sum);
    });
  }
}

// The number of lanes over which a dot product over channels is spread, until a block is summed.
template <int C>
constexpr int kSpread = C == 1 || C == 2 ? C : 4;

// dot[k] = the inner product of the cotangent and tap k's channels, spread over lanes.
template <class T, int C, int N>
STN_INLINE void dots(const T* image, const int64_t* offset, const T* cotangent, int64_t channels,
                     bool exact, Vector<T, kSpread<C>>* dot) {
  constexpr int S = kSpread<C>, W = kLanes<T>;
  if constexpr (C == 3) {
    const Vector<T, 4> ct = exact ? load3(cotangent) : load<T, 4>(cotangent);
    for (int k = 0; k < N; ++k) {
      dot[k] = ct * (exact ? load3(image + offset[k]) : load<T, 4>(image + offset[k]));
    }
  } else if constexpr (C > 0) {
    const Vector<T, S> ct = load<T, S>(cotangent);
    for (int k = 0; k < N; ++k) dot[k] = ct * load<T, S>(image + offset[k]);
  } else {
    int64_t c = 0;
    Vector<T, W> sum[N] = {};
    for (; c + W <= channels; c += W) {
      const Vector<T, W> ct = load<T, W>(cotangent + c);
      for (int k = 0; k < N; ++k) sum[k] += ct * load<T, W>(image + offset[k] + c);
    }
    if constexpr (W < S)
      for (int k = 0; k < N; ++k) dot[k] = Vector<T, S>{sum[k][0], sum[k][1]};
    else
      for (int k = 0; k < N; ++k) dot[k] = pairwise_sum<T, W, S>(sum[k]);
    for (; c + S <= channels; c += S) {
      const Vector<T, S> ct = load<T, S>(cotangent + c);
      for (int k = 0; k < N; ++k) dot[k] += ct * load<T, S>(image + offset[k] + c);
    }
    for (; c < channels; ++c)
      for (int k = 0; k < N; ++k) dot[k][0] += cotangent[c] * image[offset[k] + c];
  }
}

// gradient[offset + c] += weight * cotangent[c] for the channels [first, last), tap by tap.
template <class T, int C, int N>
STN_INLINE void spread(T* gradient, const int64_t* offset, const T* weight, int count,
                       const T* cotangent, int64_t first, int64_t last) {
  const int taps = N ? N : count;
  if constexpr (C > 0 && C < 4) {
    for (int k = 0; k < taps; ++k)
      for (int c = 0; c < C; ++c) gradient[offset[k] + c] += weight[k] * cotangent[c];
  } else {
    T* tap[N ? N : kMaxTaps];
    for (int k = 0; k < taps; ++k) tap[k] = gradient + offset[k];
    by_vectors<C ? C : kLanes<T>>(C ? 0 : first, C ? C : last, [&](auto width, int64_t c) {
      constexpr int W = decltype(width)::value;
      const Vector<T, W> ct = load<T, W>(cotangent + c);
      for (int k = 0; k < taps; ++k)
        store<T, W>(tap[k] + c, load<T, W>(tap[k] + c) + ct * weight[k]);
    });
  }
}

// The slopes of a bilinear sum of the values at a cell's corners (x is the fastest axis).
template <class V, class T>
STN_INLINE void cell_slopes(const V* v, const T (*w)[2], V* slope) {
  slope[0] = (v[1] - v[0]) * w[1][0] + (v[3] - v[2]) * w[1][1];
  slope[1] = (v[2] - v[0]) * w[0][0] + (v[3] - v[1]) * w[0][1];
}

}  // namespace
}  // namespace stn::STN_LEVEL
#endif

#endif  // STN_JAX_SUMS_H_

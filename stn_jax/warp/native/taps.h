// The pixels (taps) that each sample of a block is made of, and their weights.
#ifndef STN_JAX_TAPS_H_
#define STN_JAX_TAPS_H_

#include <cmath>

#include "level.h"
#include "vectors.h"

#ifdef STN_LEVEL
namespace stn::STN_LEVEL {
namespace {

constexpr int taps_per_axis(Mode mode) { return mode == kNearest ? 1 : mode == kLinear ? 2 : 4; }
constexpr int power(int base, int exponent) { return exponent ? base * power(base, exponent - 1) : 1; }

// The image rows (z * height + y) that a task may write to; all of them where it reads only.
struct Rows {
  int64_t first, last;
};

template <class T, int R, Mode M>
struct Taps {
  static constexpr int K = taps_per_axis(M), kCount = power(K, R);
  enum State : int32_t { kNone, kSome, kAll };  // of the taps are in the image and in the rows

  int32_t state[kBlock];
  int32_t index[R][K][kBlock];  // along each axis; -1 outside
  T weight[R][K][kBlock];       // NaN where the position is
  T slope[R][K][kBlock];        // cubic: derivatives of the weights by the position in pixels
  // Where the state is kAll, which it never is for cubic:
  int32_t first[kBlock];  // the first tap's pixel
  T product[kCount][kBlock];

  T slope_of(int axis, int k, int i) const {
    if constexpr (M == kCubic) return slope[axis][k][i];
    return M == kNearest ? T(0) : k ? T(1) : T(-1);
  }
};

// The taps of one sample that are in the image and in the rows.
template <class T, int R, Mode M>
struct Reached {
  static constexpr int kCount = Taps<T, R, M>::kCount;
  int count = 0;
  int64_t offset[kCount];  // elements from the image's start
  T weight[kCount];
  T slope[R][kCount];

  Reached(const Problem<T>& problem, const Taps<T, R, M>& taps, const Rows& rows, int i) {
    constexpr int K = Taps<T, R, M>::K;
    for (int kz = 0; kz < (R == 3 ? K : 1); ++kz) {
      const int64_t z = R == 3 ? taps.index[R - 1][kz][i] : 0;
      const T wz = R == 3 ? taps.weight[R - 1][kz][i] : T(1);
      for (int ky = 0; ky < K; ++ky) {
        const int64_t y = taps.index[1][ky][i], row = z * problem.size[1] + y;
        if (z < 0 || y < 0 || row < rows.first || row >= rows.last) continue;
        const T wy = taps.weight[1][ky][i];
        for (int kx = 0; kx < K; ++kx) {
          const int64_t x = taps.index[0][kx][i];
          if (x < 0) continue;
          const T wx = taps.weight[0][kx][i];
          offset[count] = (row * problem.size[0] + x) * problem.channels;
          weight[count] = wz * wy * wx;
          slope[0][count] = wz * wy * taps.slope_of(0, kx, i);
          slope[1][count] = wz * wx * taps.slope_of(1, ky, i);
          if constexpr (R == 3) slope[2][count] = wy * wx * taps.slope_of(2, kz, i);
          ++count;
        }
      }
    }
  }
};

// Indices and weights along one axis. Positions are clamped to where all taps are outside, so that
// they fit an int32; NaN counts as outside.
template <class T, int R, Mode M>
void find_axis(int64_t size, int axis, int count, const T* pixel, Taps<T, R, M>* taps) {
  constexpr int K = Taps<T, R, M>::K;
  const T high = static_cast<T>(size);
  const int32_t end = static_cast<int32_t>(size);
  for (int i = 0; i < count; ++i) {
    T x = pixel[i] < -2 ? -2 : pixel[i];
    x = x > high ? high : x;
    const T low = M == kNearest ? std::rint(x) : std::floor(x);  // rint: halves to even
    const int32_t k = static_cast<int32_t>(low > -2 ? low : -2);
    taps->index[axis][0][i] = k >= 0 && k < end ? k : -1;
    if constexpr (K == 2) {
      taps->index[axis][1][i] = k >= -1 && k < end - 1 ? k + 1 : -1;
      taps->weight[axis][1][i] = x - low;
      taps->weight[axis][0][i] = 1 - (x - low);
    } else {
      taps->weight[axis][0][i] = 1 + 0 * x;
    }
  }
}

// Keys' kernel (1981) with a = -0.75, for distances up to 1 and from 1 to 2, and its slopes.
template <class T>
T cubic_near(T t) { return (T(1.25) * t - T(2.25)) * t * t + 1; }
template <class T>
T cubic_far(T t) { return ((T(-0.75) * t + T(3.75)) * t - 6) * t + 3; }
template <class T>
T cubic_near_slope(T t) { return (T(3.75) * t - T(4.5)) * t; }
template <class T>
T cubic_far_slope(T t) { return (T(-2.25) * t + T(7.5)) * t - 6; }

template <class T, int R>
void find_axis(const Problem<T>& problem, int axis, int count, T* pixel, T* scale,
               Taps<T, R, kCubic>* taps) {
  const T size = static_cast<T>(problem.size[axis]);
  T low[kBlock], tap[kBlock], ignored[kBlock] = {};
  for (int i = 0; i < count; ++i) {
    T x = pixel[i];
    if (problem.padding != kReflection) {
      scale[i] = x > -3 && x < size + 2 ? scale[i] : 0;
      x = x < -3 ? -3 : x;
      x = x > size + 2 ? size + 2 : x;
    }
    low[i] = std::floor(x);
    const T t = x - low[i];
    const T weight[4] = {cubic_far(t + 1), cubic_near(t), cubic_near(1 - t), cubic_far(2 - t)};
    const T slope[4] = {cubic_far_slope(t + 1), cubic_near_slope(t), -cubic_near_slope(1 - t),
                        -cubic_far_slope(2 - t)};
    for (int k = 0; k < 4; ++k) {
      taps->weight[axis][k][i] = weight[k];
      taps->slope[axis][k][i] = slope[k];
    }
  }
  for (int k = 0; k < 4; ++k) {
    for (int i = 0; i < count; ++i) tap[i] = low[i] + (k - 1);
    pad(problem, axis, count, tap, ignored);
    for (int i = 0; i < count; ++i)
      taps->index[axis][k][i] = tap[i] >= 0 && tap[i] < size ? static_cast<int32_t>(tap[i]) : -1;
  }
}

static inline int32_t bounded(int64_t n) { return static_cast<int32_t>(n < -1 ? -1 : n); }

// `guard`: how many pixels past a sample's last tap must be readable for the state kAll.
template <class T, int R, Mode M>
void find_taps(const Problem<T>& problem, const Rows& rows, int guard, int count,
               Positions<T>* positions, Taps<T, R, M>* taps) {
  using Of = Taps<T, R, M>;
  for (int axis = 0; axis < R; ++axis) {
    if constexpr (M == kCubic)
      find_axis(problem, axis, count, positions->pixel[axis], positions->scale[axis], taps);
    else
      find_axis(problem.size[axis], axis, count, positions->pixel[axis], taps);
  }
  if constexpr (M == kCubic) {
    for (int i = 0; i < count; ++i) taps->state[i] = Of::kSome;
    return;
  }
  constexpr int last = Of::K - 1;
  const int32_t width = static_cast<int32_t>(problem.size[0]);
  const int32_t height = static_cast<int32_t>(problem.size[1]);
  const int64_t row_span = last * (R == 3 ? problem.size[1] + 1 : 1);
  const int64_t span = row_span * width + last + guard;
  // In 64 bits up to here; a first tap in the image lies below these bounds or not.
  const int32_t first_row = bounded(rows.first), end_row = bounded(rows.last);
  const int32_t before_rows = bounded(rows.first - row_span), end_whole_row = bounded(rows.last - row_span);
  const int32_t end = bounded(problem.pixels - span);
  for (int i = 0; i < count; ++i) {
    int32_t some = 0, none = 0;  // negative where some, where all taps along an axis are outside
    for (int axis = 0; axis < R; ++axis) {
      some |= taps->index[axis][0][i] | taps->index[axis][last][i];
      none |= taps->index[axis][0][i] & taps->index[axis][last][i];
    }
    int32_t row = taps->index[1][0][i];
    if constexpr (R == 3) row += taps->index[2][0][i] * height;
    const int32_t pixel = row * width + taps->index[0][0][i];
    const bool whole = some >= 0;
    const bool within = row >= first_row && row < end_whole_row && pixel < end;
    const bool beyond = row < before_rows || row >= end_row;
    taps->first[i] = pixel;
    taps->state[i] = whole && within             ? Of::kAll
                     : none < 0 || (whole && beyond) ? Of::kNone
                                                     : Of::kSome;
  }
  for (int k = 0; k < Of::kCount; ++k) {
    const T *x = taps->weight[0][k & last], *y = taps->weight[1][(k / Of::K) & last];
    for (int i = 0; i < count; ++i) taps->product[k][i] = y[i] * x[i];
    if constexpr (R == 3) {
      const T* z = taps->weight[2][k / (Of::K * Of::K)];
      for (int i = 0; i < count; ++i) taps->product[k][i] *= z[i];
    }
  }
}

}  // namespace
}  // namespace stn::STN_LEVEL
#endif

#endif  // STN_JAX_TAPS_H_

// The pixels (taps) that contribute to each sample of a block, and their weights.
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

// The image rows (z * height + y) that a part may write; all of them if it only reads.
struct Rows {
  int64_t first, last;
};

template <class T, int D, Mode M>
struct Taps {
  static constexpr int K = taps_per_axis(M), kCount = power(K, D);
  // Which of a sample's taps are in the image and in the rows; kSome for NaN positions.
  static constexpr Int<T> kNone = 0, kSome = 1, kAll = 2;

  Int<T> state[kBlock];
  T weight[D][K][kBlock];  // NaN for NaN positions
  // Cubic: each tap's index along each axis (-1: outside), and the derivative of its weight.
  // Otherwise: the first tap's index, which may be outside the image.
  Int<T> index[D][M == kCubic ? 4 : 1][kBlock];
  T slope[D][M == kCubic ? 4 : 1][kBlock];
  // Only if the state is kAll, which it never is for cubic:
  Int<T> first[kBlock];  // the first tap's pixel
  T product[kCount][kBlock];

  int64_t index_of(const Problem<T>& problem, int axis, int k, int i) const {
    if constexpr (M == kCubic) return index[axis][k][i];
    const int64_t at = index[axis][0][i] + k;
    return at < problem.size[axis] ? at : -1;
  }
  T slope_of(int axis, int k, int i) const {
    if constexpr (M == kCubic) return slope[axis][k][i];
    return M == kNearest ? T(0) : k ? T(1) : T(-1);
  }
};

// The taps of one sample that are in the image and in the rows.
template <class T, int D, Mode M>
struct Reached {
  static constexpr int kCount = Taps<T, D, M>::kCount;
  int count = 0;
  int64_t offset[kCount];  // elements from the image's start
  T weight[kCount];
  T slope[D][kCount];

  Reached(const Problem<T>& problem, const Taps<T, D, M>& taps, const Rows& rows, int i) {
    constexpr int K = Taps<T, D, M>::K;
    for (int kz = 0; kz < (D == 3 ? K : 1); ++kz) {
      const int64_t z = D == 3 ? taps.index_of(problem, D - 1, kz, i) : 0;
      const T wz = D == 3 ? taps.weight[D - 1][kz][i] : T(1);
      for (int ky = 0; ky < K; ++ky) {
        const int64_t y = taps.index_of(problem, 1, ky, i), row = z * problem.size[1] + y;
        const bool mine = (z >= 0) & (y >= 0) & (row >= rows.first) & (row < rows.last);
        const T wy = taps.weight[1][ky][i];
        for (int kx = 0; kx < K; ++kx) {
          const int64_t x = taps.index_of(problem, 0, kx, i);
          const T wx = taps.weight[0][kx][i];
          // Always written, and kept only if inside: avoids an unpredictable branch.
          offset[count] = (row * problem.size[0] + x) * problem.channels;
          weight[count] = wy * wx * wz;  // in the order of Taps::product, for equal rounding
          slope[0][count] = wz * wy * taps.slope_of(0, kx, i);
          slope[1][count] = wz * wx * taps.slope_of(1, ky, i);
          if constexpr (D == 3) slope[2][count] = wy * wx * taps.slope_of(2, kz, i);
          count += mine & (x >= 0);
        }
      }
    }
  }
};

// Keys' kernel (1981) with a = -0.75, for distances from 0 to 1 and from 1 to 2, and its slopes.
template <class T>
T cubic_near(T t) { return (T(1.25) * t - T(2.25)) * t * t + 1; }
template <class T>
T cubic_far(T t) { return ((T(-0.75) * t + T(3.75)) * t - 6) * t + 3; }
template <class T>
T cubic_near_slope(T t) { return (T(3.75) * t - T(4.5)) * t; }
template <class T>
T cubic_far_slope(T t) { return (T(-2.25) * t + T(7.5)) * t - 6; }

template <class T, int D>
void find_cubic_axis(const Problem<T>& problem, int axis, int count, T* pixel, T* scale,
               Taps<T, D, kCubic>* taps) {
  const T size = static_cast<T>(problem.size[axis]);
  T low[kBlock], tap[kBlock] = {}, ignored[kBlock] = {};
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
    pad(problem, axis, tap, ignored);
    for (int i = 0; i < count; ++i)
      taps->index[axis][k][i] = tap[i] >= 0 && tap[i] < size ? static_cast<Int<T>>(tap[i]) : -1;
  }
}

template <class T, int D>
void find_taps(const Problem<T>& problem, const Rows&, int, int count, Positions<T>* positions,
               Taps<T, D, kCubic>* taps) {
  for (int axis = 0; axis < D; ++axis)
    find_cubic_axis(problem, axis, count, positions->pixel[axis], positions->scale[axis], taps);
  for (int i = 0; i < count; ++i) taps->state[i] = Taps<T, D, kCubic>::kSome;
}

// Nearest and linear. For the state kAll, `guard` pixels past the last tap must be readable too.
template <class T, int D, Mode M>
void find_taps(const Problem<T>& problem, const Rows& rows, int guard, int count,
               const Positions<T>* positions, Taps<T, D, M>* taps) {
  using Of = Taps<T, D, M>;
  constexpr int W = kLanes<T>, K = Of::K, last = K - 1;
  using V = Vector<T, W>;
  using I = Vector<Int<T>, W>;
  const auto integer = [](int64_t n) { return static_cast<Int<T>>(n < -1 ? -1 : n); };
  const int64_t row_span = last * (D == 3 ? problem.size[1] + 1 : 1);
  const Int<T> first_row = integer(rows.first), before_rows = integer(rows.first - row_span);
  const Int<T> end_row = integer(rows.last), end_whole_row = integer(rows.last - row_span);
  const Int<T> end = integer(problem.pixels - (row_span * problem.size[0] + last + guard));
  for (int i = 0; i < count; i += W) {
    V weight[D][K];
    I whole = I{} - 1, missed{}, nan{}, row{}, pixel{};
    for (int axis = D - 1; axis >= 0; --axis) {
      const Int<T> size = integer(problem.size[axis]);
      const V lowest = V{} - 2, highest = V{} + static_cast<T>(size);  // all taps are outside
      V x = load<T, W>(positions->pixel[axis] + i);
      nan |= x != x;
      x = x < lowest ? lowest : x;
      x = x > highest ? highest : x;
      const V number = x > lowest ? x : lowest;  // NaN cannot be converted to an integer
      I low = __builtin_convertvector(number, I);
      low += __builtin_convertvector(low, V) > number;  // a true mask is -1: rounds down
      const V t = x - __builtin_convertvector(low, V);
      if constexpr (M == kNearest) {
        low -= (t > T(0.5)) | ((t == T(0.5)) & ((low & 1) != 0));  // halves go to the even pixel
        weight[axis][0] = 1 + 0 * t;
      } else {
        weight[axis][0] = 1 - t;
        weight[axis][1] = t;
      }
      whole &= (low >= 0) & (low < size - last);
      missed |= (low < -last) | (low >= size);
      row = axis == 0 ? row : row * size + low;
      pixel = axis == 0 ? row * size + low : pixel;
      store<Int<T>, W>(taps->index[axis][0] + i, low);
      for (int k = 0; k < K; ++k) store<T, W>(taps->weight[axis][k] + i, weight[axis][k]);
    }
    const I within = (row >= first_row) & (row < end_whole_row) & (pixel < end);
    const I beyond = (row < before_rows) | (row >= end_row);
    const I all = whole & within, none = (missed | (whole & beyond)) & ~nan;
    store<Int<T>, W>(taps->state + i, (all & Of::kAll) | (~all & ~none & Of::kSome));
    store<Int<T>, W>(taps->first + i, pixel);
    for (int k = 0; k < Of::kCount; ++k) {
      V product = weight[1][k / K & last] * weight[0][k & last];
      if constexpr (D == 3) product *= weight[2][k / (K * K)];
      store<T, W>(taps->product[k] + i, product);
    }
  }
}

}  // namespace
}  // namespace stn::STN_LEVEL
#endif

#endif  // STN_JAX_TAPS_H_

// Positions of samples. Compiled without contraction to fused multiply-adds, so that all
// instruction sets and XLA round alike: if a position's floor differs, the sample is a pixel off.
#include <cmath>
#include <limits>

#include "level.h"

namespace stn::STN_LEVEL {
namespace {

// The normalized output positions of the samples, from each axis's table.
template <class T>
void fill_base(const Problem<T>& problem, int64_t first, int count, Positions<T>* positions) {
  const int64_t width = problem.out_size[0], height = problem.out_size[1];
  int64_t x = first % width, row = first / width;
  for (int i = 0; i < count;) {
    const int end = static_cast<int>(width - x < count - i ? i + (width - x) : count);
    const T y = problem.base[1][row % height];
    for (int j = i; j < end; ++j) positions->base[0][j] = problem.base[0][x + j - i];
    for (int j = i; j < end; ++j) positions->base[1][j] = y;
    if (problem.dims == 3) {
      const T z = problem.base[2][row / height];
      for (int j = i; j < end; ++j) positions->base[2][j] = z;
    }
    i = end, x = 0, ++row;
  }
  for (int axis = 0; axis < problem.dims; ++axis)
    for (int i = count; i < kBlock; ++i) positions->base[axis][i] = 0;
}

template <class T>
void apply_theta(int dims, const T* row, const Positions<T>& positions, T* __restrict g) {
  const T *x = positions.base[0], *y = positions.base[1], *z = positions.base[2];
  const T shift = row[dims];
  if (dims == 2) {
    for (int i = 0; i < kBlock; ++i) g[i] = (shift + row[1] * y[i]) + row[0] * x[i];
  } else {
    for (int i = 0; i < kBlock; ++i)
      g[i] = ((shift + row[2] * z[i]) + row[1] * y[i]) + row[0] * x[i];
  }
}

template <class T>
void clamp(T high, T* __restrict x, T* __restrict scale) {
  for (int i = 0; i < kBlock; ++i) {
    scale[i] = x[i] > 0 && x[i] < high ? scale[i] : 0;
    const T raised = x[i] < 0 ? 0 : x[i];  // NaN propagates
    x[i] = raised > high ? high : raised;
  }
}

template <class T>
void reflect(T low, T span, T* __restrict x, T* __restrict scale) {
  const T period = span > 0 ? 2 * span : 1;
  // Up to here T represents the quotient, a whole number, and the remainder is exact.
  constexpr T kExact = T(int64_t{1} << (std::numeric_limits<T>::digits - 1));
  int beyond = 0;
  T rest[kBlock];
  for (int i = 0; i < kBlock; ++i) {
    const T u = std::fabs(x[i] - low);
    beyond |= !(u < kExact);
    T r = u - std::floor(u / period) * period;
    r = r < 0 ? r + period : r;
    rest[i] = r >= period ? r - period : r;
  }
  if (beyond)
    for (int i = 0; i < kBlock; ++i) rest[i] = std::fmod(std::fabs(x[i] - low), period);
  for (int i = 0; i < kBlock; ++i) {
    const bool forwards = (x[i] > low) == (rest[i] < span);
    scale[i] = forwards ? scale[i] : -scale[i];
    x[i] = span - std::fabs(rest[i] - span) + low;
  }
}

}  // namespace

template <class T>
void pad(const Problem<T>& problem, int axis, T* x, T* scale) {
  const T size = static_cast<T>(problem.size[axis]), high = size - 1;
  if (problem.padding == kReflection && problem.align_corners) reflect<T>(0, high, x, scale);
  if (problem.padding == kReflection && !problem.align_corners)
    reflect<T>(T(-0.5), size, x, scale);
  if (problem.padding != kZeros) clamp(high, x, scale);
}

template <class T>
void find_positions(const Problem<T>& problem, const T* where, int64_t first, int count,
                    Positions<T>* positions) {
  const int dims = problem.dims;
  if (problem.theta) fill_base(problem, first, count, positions);
  for (int axis = 0; axis < dims; ++axis) {
    T *x = positions->pixel[axis], *scale = positions->scale[axis];
    if (problem.theta) {
      apply_theta(dims, where + axis * (dims + 1), *positions, x);
    } else {
      const T* from = where + first * dims + axis;
      if (dims == 2) {  // constant strides
        for (int i = 0; i < count; ++i) x[i] = from[i * 2];
      } else {
        for (int i = 0; i < count; ++i) x[i] = from[i * 3];
      }
      for (int i = count; i < kBlock; ++i) x[i] = 0;
    }
    const T size = static_cast<T>(problem.size[axis]), high = size - 1;
    const T slope = (problem.align_corners ? high : size) / 2;
    for (int i = 0; i < kBlock; ++i) scale[i] = slope;
    if (problem.align_corners)
      for (int i = 0; i < kBlock; ++i) x[i] = (x[i] + 1) / 2 * high;
    else
      for (int i = 0; i < kBlock; ++i) x[i] = ((x[i] + 1) * size - 1) / 2;
    if (problem.mode != kCubic) pad(problem, axis, x, scale);  // kCubic: each tap is padded
  }
}

template void pad(const Problem<float>&, int, float*, float*);
template void pad(const Problem<double>&, int, double*, double*);
template void find_positions(const Problem<float>&, const float*, int64_t, int, Positions<float>*);
template void find_positions(const Problem<double>&, const double*, int64_t, int,
                             Positions<double>*);

}  // namespace stn::STN_LEVEL

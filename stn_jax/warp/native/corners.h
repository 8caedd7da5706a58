// Bilinear samples of images with one channel. A loop over channels would be a loop over nothing,
// so here all arithmetic is on vectors of samples: the pixels at the corners of a block's cells are
// copied into arrays first, without a branch.
#ifndef STN_JAX_CORNERS_H_
#define STN_JAX_CORNERS_H_

#include "taps.h"

#ifdef STN_LEVEL
namespace stn::STN_LEVEL {
namespace {

template <class T>
class Corners {
 public:
  // The image must be at least two pixels wide.
  void find(const Problem<T>& problem, const Rows& rows, int count, const Taps<T, 2, kLinear>& taps) {
    count_ = count;
    const auto width = static_cast<Int<T>>(problem.size[0]);
    const auto first = static_cast<Int<T>>(rows.first), end = static_cast<Int<T>>(rows.last);
    for (int i = 0; i < count; i += W) {
      const I x = load<Int<T>, W>(taps.index[0][0] + i), y = load<Int<T>, W>(taps.index[1][0] + i);
      const I column = clamp(x, 0, width - 2);
      const I x_inside[2] = {(x >= 0) & (x < width), (x >= -1) & (x < width - 1)};
      store<Int<T>, W>(left_ + i, x < 0);
      store<Int<T>, W>(right_ + i, x > width - 2);
      for (int k = 0; k < 2; ++k) {
        const I row = y + k, y_inside = (row >= first) & (row < end);
        store<Int<T>, W>(offset_[k] + i, clamp(row, first, end - 1) * width + column);
        for (int j = 0; j < 2; ++j)
          store<Int<T>, W>(inside_[2 * k + j] + i, x_inside[j] & y_inside);
      }
    }
  }

  void read(const T* image) {
    T pair[4][kBlock];
    const int whole_vectors = (count_ + W - 1) / W * W;
    for (int k = 0; k < 2; ++k) {
      for (int i = 0; i < whole_vectors; ++i) {
        const T* pixel = image + offset_[k][i];
        pair[2 * k][i] = pixel[0];
        pair[2 * k + 1][i] = pixel[1];
      }
      for (int i = 0; i < count_; i += W) {
        const V a = load<T, W>(pair[2 * k] + i), b = load<T, W>(pair[2 * k + 1] + i);
        const V left = at(right_, i) ? b : a, right = at(left_, i) ? a : b;
        store<T, W>(value_[2 * k] + i, at(inside_[2 * k], i) ? left : V{});
        store<T, W>(value_[2 * k + 1] + i, at(inside_[2 * k + 1], i) ? right : V{});
      }
    }
  }

  void sample(const Taps<T, 2, kLinear>& taps, T* out) const {
    T result[kBlock];
    for (int i = 0; i < count_; i += W) {
      V sum{};
      for (int k = 0; k < 4; ++k) sum += load<T, W>(taps.product[k] + i) * load<T, W>(value_[k] + i);
      store<T, W>(result + i, sum);
    }
    std::memcpy(out, result, count_ * sizeof(T));
  }

  // Adds the slopes of the samples, times the cotangent, to those along x and y.
  void slopes(const Taps<T, 2, kLinear>& taps, const T* cotangent, T* along_x, T* along_y) const {
    for (int i = 0; i < count_; i += W) {
      const V ct = load<T, W>(cotangent + i), zero{};
      V v[4];
      I some{};
      for (int k = 0; k < 4; ++k) v[k] = load<T, W>(value_[k] + i), some |= at(inside_[k], i);
      const auto weight = [&](int axis, int k) { return load<T, W>(taps.weight[axis][k] + i); };
      const V x = (v[1] - v[0]) * weight(1, 0) + (v[3] - v[2]) * weight(1, 1);
      const V y = (v[2] - v[0]) * weight(0, 0) + (v[3] - v[1]) * weight(0, 1);
      store<T, W>(along_x + i, load<T, W>(along_x + i) + (some ? ct * x : zero));
      store<T, W>(along_y + i, load<T, W>(along_y + i) + (some ? ct * y : zero));
    }
  }

  // Adds the cotangent to the image's gradient. What lies outside is 0, added somewhere in the rows.
  void spread(const Taps<T, 2, kLinear>& taps, const T* cotangent, T* gradient) const {
    T added[4][kBlock];
    for (int i = 0; i < count_; i += W) {
      const V ct = load<T, W>(cotangent + i), zero{};
      const I at_left = at(left_, i), at_right = at(right_, i);
      for (int k = 0; k < 4; k += 2) {
        const V l = at(inside_[k], i) ? ct * load<T, W>(taps.product[k] + i) : zero;
        const V r = at(inside_[k + 1], i) ? ct * load<T, W>(taps.product[k + 1] + i) : zero;
        store<T, W>(added[k] + i, at_left ? r : at_right ? zero : l);
        store<T, W>(added[k + 1] + i, at_right ? l : at_left ? zero : r);
      }
    }
    for (int i = 0; i < count_; ++i) {
      if (taps.state[i] == Taps<T, 2, kLinear>::kNone) continue;
      for (int k = 0; k < 2; ++k) {
        T* pixel = gradient + offset_[k][i];
        pixel[0] += added[2 * k][i];
        pixel[1] += added[2 * k + 1][i];
      }
    }
  }

 private:
  static constexpr int W = kLanes<T>;
  using V = Vector<T, W>;
  using I = Vector<Int<T>, W>;

  static I at(const Int<T>* mask, int i) { return load<Int<T>, W>(mask + i); }
  static I clamp(I x, Int<T> low, Int<T> high) {
    const I lowest = I{} + low, highest = I{} + high;
    x = x < lowest ? lowest : x;
    return x > highest ? highest : x;
  }

  int count_;
  Int<T> offset_[2][kBlock];  // of two neighbouring pixels in the cell's upper and lower row
  Int<T> left_[kBlock], right_[kBlock];  // masks: the cell begins left of them, or at the right one
  Int<T> inside_[4][kBlock];             // masks: the corner is in the image and in the rows
  T value_[4][kBlock];                   // of the corners; 0 outside
};

}  // namespace
}  // namespace stn::STN_LEVEL
#endif

#endif  // STN_JAX_CORNERS_H_

// Sampling and its gradients, for blocks of samples whose positions are computed first. Template
// parameters: type, spatial dimensions (D), mode, and channels (C; 0: any number).
#include "sums.h"

namespace stn::STN_LEVEL {
namespace {

// The fast path reads three channels as a vector of four, and so one pixel further.
template <int C>
constexpr int kGuard = C == 3 ? 1 : 0;

// Images up to this size in bytes are in the L1 cache anyway.
constexpr int64_t kNear = 16384;

// --- blocks of samples ---------------------------------------------------------------------------

template <class T, int D, Mode M, int C>
struct Block {
  using TapsOf = Taps<T, D, M>;
  using ReachedOf = Reached<T, D, M>;
  static constexpr int N = TapsOf::kCount, S = kSpread<C>;
  static constexpr bool kFast = M != kCubic;  // has a fast path for samples with all taps inside

  const Problem<T>& problem;
  const Rows rows;
  int count = 0;
  int64_t corner[N];  // offsets of the taps from the first, in elements
  Positions<T> positions;
  TapsOf taps;
  T lanes[D][kBlock][S];  // slopes along each axis, spread over lanes

  Block(const Problem<T>& problem, Rows rows) : problem(problem), rows(rows) {
    constexpr int K = TapsOf::K;
    for (int k = 0; k < N; ++k) {
      const int64_t x = k % K, y = k / K % K, z = k / (K * K);
      corner[k] = ((z * problem.size[1] + y) * problem.size[0] + x) * problem.channels;
    }
  }

  // Finds the positions and taps of the samples from `first`, at most a block.
  void find(const T* where, int64_t first, int64_t last) {
    count = static_cast<int>(last - first < kBlock ? last - first : kBlock);
    find_positions(problem, where, first, count, &positions);
    find_taps(problem, rows, kGuard<C>, count, &positions, &taps);
  }

  STN_INLINE void products(int i, T* weight) const {
    for (int k = 0; k < N; ++k) weight[k] = taps.product[k][i];
  }

  // Prefetches the pixels of a block. For rotated or random positions the processor cannot predict
  // them, and loading them takes longer than the computation.
  void prefetch(const T* image) const {
    const int64_t channels = C ? C : problem.channels;
    if (problem.pixels * channels * int64_t{sizeof(T)} <= kNear) return;
    for (int i = 0; i < count; ++i) {
      const int64_t pixel = taps.state[i] == TapsOf::kAll ? taps.first[i] : 0;
      for (int k = 0; k < N; k += TapsOf::K) __builtin_prefetch(image + pixel * channels + corner[k]);
    }
  }

  void sample(const T* image, T* out) {
    const int64_t channels = C ? C : problem.channels;
    if (kFast) prefetch(image);
    for (int i = 0; i < count; ++i, out += channels) {
      if (kFast && taps.state[i] == TapsOf::kAll) {
        T weight[N];
        products(i, weight);
        blend<T, C, N>(image + taps.first[i] * channels, corner, weight, N, T(0), channels,
                       i + 1 == count, out);
        continue;
      }
      if (taps.state[i] == TapsOf::kNone) {
        for (int64_t c = 0; c < channels; ++c) out[c] = 0;
        continue;
      }
      T start = 0;  // NaN if the position is NaN
      for (int axis = 0; axis < D; ++axis) start += 0 * taps.weight[axis][0][i];
      const ReachedOf reached(problem, taps, rows, i);
      blend<T, C, 0>(image, reached.offset, reached.weight, reached.count, start, channels, true,
                     out);
    }
  }

  // Adds to the image's gradient (if kImage) and to the lanes (if kWhere).
  template <bool kImage, bool kWhere>
  void pull_back(const T* image, const T* cotangent, T* gradient, int64_t first_channel,
                 int64_t last_channel) {
    const int64_t channels = C ? C : problem.channels;
    if (kFast) prefetch(kImage ? gradient : image);
    for (int i = 0; i < count; ++i, cotangent += channels) {
      if (taps.state[i] == TapsOf::kNone) continue;
      if (kFast && taps.state[i] == TapsOf::kAll) {
        const int64_t start = taps.first[i] * channels;
        if constexpr (kWhere && M == kLinear)
          fast_slopes(image + start, cotangent, i, i + 1 == count);
        if constexpr (kImage) {
          T weight[N];
          products(i, weight);
          spread<T, C, N>(gradient + start, corner, weight, N, cotangent, first_channel,
                          last_channel);
        }
        continue;
      }
      const ReachedOf reached(problem, taps, rows, i);
      if constexpr (kWhere && M != kNearest) slopes(reached, image, cotangent, i);
      if constexpr (kImage)
        spread<T, C, 0>(gradient, reached.offset, reached.weight, reached.count, cotangent,
                        first_channel, last_channel);
    }
  }

  STN_INLINE void fast_slopes(const T* cell, const T* cotangent, int i, bool exact) {
    Vector<T, S> dot[N], slope[D];
    dots<T, C, N>(cell, corner, cotangent, problem.channels, exact, dot);
    T w[D][2];
    for (int axis = 0; axis < D; ++axis)
      for (int k = 0; k < 2; ++k) w[axis][k] = taps.weight[axis][k][i];
    if constexpr (D == 3) {
      Vector<T, S> across[4];
      for (int k = 0; k < 4; ++k) across[k] = dot[k + 4] - dot[k];
      for (int k = 0; k < 4; ++k) dot[k] = dot[k] * w[2][0] + dot[k + 4] * w[2][1];
      slope[2] = (across[0] * w[0][0] + across[1] * w[0][1]) * w[1][0] +
                 (across[2] * w[0][0] + across[3] * w[0][1]) * w[1][1];
    }
    cell_slopes(dot, w, slope);
    for (int axis = 0; axis < D; ++axis) add_lanes(axis, i, slope[axis]);
  }

  void slopes(const ReachedOf& reached, const T* image, const T* cotangent, int i) {
    for (int k = 0; k < reached.count; ++k) {
      Vector<T, S> dot[1];
      dots<T, C, 1>(image, &reached.offset[k], cotangent, problem.channels, true, dot);
      for (int axis = 0; axis < D; ++axis) add_lanes(axis, i, dot[0] * reached.slope[axis][k]);
    }
  }

  STN_INLINE void add_lanes(int axis, int i, Vector<T, S> v) {
    if constexpr (C == 3) v[3] = 0;  // not a product with 0: the next value may be infinite
    T* to = lanes[axis][i];
    store<T, S>(to, load<T, S>(to) + v);
  }

  void clear_lanes() { std::memset(lanes, 0, sizeof(lanes)); }

  // The gradient to the block's normalized positions along an axis; 0 past the count.
  void slopes_of(int axis, T* g) const {
    for (int i = 0; i < kBlock; ++i) {
      T sum = lanes[axis][i][0];
      for (int s = 1; s < S; ++s) sum += lanes[axis][i][s];
      const T scale = positions.scale[axis][i];
      g[i] = i < count && scale != 0 ? sum * scale : 0;
    }
  }

  // Adds the lanes to theta's sums, or writes them as the grid's gradient.
  void finish(T* grid_gradient, double* sums) const {
    T g[D][kBlock];
    for (int axis = 0; axis < D; ++axis) slopes_of(axis, g[axis]);
    if (problem.theta) {
      for (int axis = 0; axis < D; ++axis)
        for (int column = 0; column <= D; ++column)
          sums[axis * (D + 1) + column] += inner(g[axis], column < D ? positions.base[column] : nullptr);
    } else {
      for (int i = 0; i < count; ++i)
        for (int axis = 0; axis < D; ++axis) grid_gradient[i * D + axis] = g[axis][i];
    }
  }

  static T inner(const T* a, const T* b) {
    constexpr int W = kLanes<T>;
    Vector<T, W> sum{};
    for (int i = 0; i < kBlock; i += W) {
      const Vector<T, W> v = load<T, W>(a + i);
      sum += b ? v * load<T, W>(b + i) : v;
    }
    return pairwise_sum<T, W, 1>(sum);
  }
};

// --- parts of the work ---------------------------------------------------------------------------

template <class T, int D, Mode M, int C>
struct Parts {
  using BlockOf = Block<T, D, M, C>;

  static const T* at(const T* array, int64_t index, int64_t size) { return array + index * size; }
  static T* at(T* array, int64_t index, int64_t size) { return array + index * size; }

  static void sample(const Problem<T>& p, const SamplePart& part) {
    BlockOf block(p, Rows{0, p.rows()});
    for (int64_t i = part.first; i < part.last; i += kBlock) {
      block.find(at(p.where, part.where, p.where_size()), i, part.last);
      for (int64_t index = 0; index < p.entries_per_where; ++index) {
        const Entry entry = locate(p.batch, p.batch.where, part.where, index);
        block.sample(at(p.image, entry.image, p.pixels * p.channels),
                     at(p.out, entry.out * p.samples + i, p.channels));
      }
    }
  }

  static void where_gradient(const Problem<T>& p, const SamplePart& part, double* sums) {
    BlockOf block(p, Rows{0, p.rows()});
    for (int64_t i = part.first; i < part.last; i += kBlock) {
      block.find(at(p.where, part.where, p.where_size()), i, part.last);
      block.clear_lanes();
      for (int64_t index = 0; index < p.entries_per_where; ++index) {
        const Entry entry = locate(p.batch, p.batch.where, part.where, index);
        block.template pull_back<false, true>(
            at(p.image, entry.image, p.pixels * p.channels),
            at(p.cotangent, entry.out * p.samples + i, p.channels), nullptr, 0, 0);
      }
      block.finish(grid_gradient(p, part.where, i), sums);
    }
  }

  static void image_gradient(const Problem<T>& p, const ImagePart& part) {
    T* gradient = at(p.image_gradient, part.image, p.pixels * p.channels);
    clear(p, part, gradient);
    BlockOf block(p, Rows{part.first_row, part.last_row});
    for (int64_t index = 0; index < p.entries_per_image; ++index) {
      const Entry entry = locate(p.batch, p.batch.image, part.image, index);
      for (int64_t i = 0; i < p.samples; i += kBlock) {
        block.find(at(p.where, entry.where, p.where_size()), i, p.samples);
        block.template pull_back<true, false>(
            nullptr, at(p.cotangent, entry.out * p.samples + i, p.channels), gradient,
            part.first_channel, part.last_channel);
      }
    }
  }

  static void both_gradients(const Problem<T>& p, int64_t image, double* sums) {
    T* gradient = at(p.image_gradient, image, p.pixels * p.channels);
    clear(p, ImagePart{image, 0, p.rows(), 0, p.channels}, gradient);
    BlockOf block(p, Rows{0, p.rows()});
    for (int64_t index = 0; index < p.entries_per_image; ++index, sums += D * (D + 1)) {
      const Entry entry = locate(p.batch, p.batch.image, image, index);
      for (int64_t i = 0; i < p.samples; i += kBlock) {
        block.find(at(p.where, entry.where, p.where_size()), i, p.samples);
        block.clear_lanes();
        block.template pull_back<true, true>(
            at(p.image, image, p.pixels * p.channels),
            at(p.cotangent, entry.out * p.samples + i, p.channels), gradient, 0, p.channels);
        block.finish(grid_gradient(p, entry.where, i), sums);
      }
    }
  }

  static T* grid_gradient(const Problem<T>& p, int64_t where, int64_t sample) {
    return p.theta ? nullptr : p.where_gradient + (where * p.samples + sample) * D;
  }

  static void clear(const Problem<T>& p, const ImagePart& part, T* gradient) {
    const int64_t width = p.size[0], channels = part.last_channel - part.first_channel;
    const int64_t first = part.first_row * width, last = part.last_row * width;
    if (channels == p.channels) {
      std::memset(gradient + first * channels, 0, (last - first) * channels * sizeof(T));
      return;
    }
    for (int64_t pixel = first; pixel < last; ++pixel)
      std::memset(gradient + pixel * p.channels + part.first_channel, 0, channels * sizeof(T));
  }
};

template <class T, int D, Mode M, int C>
Kernels<T> kernels_of() {
  using Of = Parts<T, D, M, C>;
  return {Of::sample, Of::where_gradient, Of::image_gradient, Of::both_gradients};
}

template <class T, int D, Mode M>
Kernels<T> for_channels(int64_t channels) {
  if constexpr (D == 2 && M == kLinear) {
    if (channels == 2) return kernels_of<T, D, M, 2>();
    if (channels == 3) return kernels_of<T, D, M, 3>();
    if (channels == 4) return kernels_of<T, D, M, 4>();
  }
  return channels == 1 ? kernels_of<T, D, M, 1>() : kernels_of<T, D, M, 0>();
}

}  // namespace

template <class T>
Kernels<T> find_kernels(const Problem<T>& problem) {
  const int64_t channels = problem.channels;
  if (problem.mode == kCubic) return for_channels<T, 2, kCubic>(channels);
  if (problem.mode == kNearest)
    return problem.dims == 2 ? for_channels<T, 2, kNearest>(channels)
                             : for_channels<T, 3, kNearest>(channels);
  return problem.dims == 2 ? for_channels<T, 2, kLinear>(channels)
                           : for_channels<T, 3, kLinear>(channels);
}

template Kernels<float> find_kernels(const Problem<float>&);
template Kernels<double> find_kernels(const Problem<double>&);

}  // namespace stn::STN_LEVEL

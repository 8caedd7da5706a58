// How a convolution is divided into parts. Sums over pixels are divided depending on shapes alone,
// so that results are bitwise equal for any number of threads.
#ifndef STN_JAX_CONVOLUTION_PLAN_H_
#define STN_JAX_CONVOLUTION_PLAN_H_

#include <memory>
#include <vector>

#include "convolution.h"
#include "parallel.h"

namespace stn {

class ConvolutionPlan {
 public:
  ConvolutionPlan(const Convolution& c, const ConvolutionKernels& kernels, const Pool& pool)
      : c_(c), kernels_(kernels), pool_(pool) {}

  void output(const float* input, const float* kernel, float* output) {
    if (c_.pixels * c_.features == 0) return;
    if (c_.taps == 0) return void(std::fill_n(output, c_.pixels * c_.features, 0.0f));
    const Packed packed(*this, kernel, c_.taps, c_.features, c_.features, 1);
    const Taps taps(c_);
    const int64_t size = parts(c_.pixels, kPartPixels, pixel_cost());
    parallel_for(pool_, ceil(c_.pixels, size), 1, [&](int64_t i) {
      kernels_.output(c_, input, packed.panels, taps.blocks(), i * size,
                      std::min(c_.pixels, (i + 1) * size), output);
    });
  }

  void input_gradient(const float* kernel, const float* output, float* input) {
    if (c_.batch * c_.height * c_.width * c_.channels == 0) return;
    const Packed packed(*this, kernel, c_.features, c_.taps, 1, c_.features);
    // Enough images per part to use each loaded panel of the kernel often. Large images are divided
    // into strips of rows, each of which reads kernel_height - 1 additional rows of output.
    const int64_t per_image = std::max<int64_t>(1, c_.out_height * c_.out_width);
    const int64_t images = parts(c_.batch, ceil(kPartPixels, per_image),
                                 pixel_cost() * static_cast<double>(per_image));
    const int64_t groups = ceil(c_.batch, images);
    const int64_t strips =
        groups >= pool_.threads
            ? 1
            : std::max<int64_t>(1, std::min(ceil(2 * pool_.threads, groups),
                                            c_.height / (4 * c_.kernel_height)));
    const int64_t rows = ceil(c_.height, strips);
    parallel_for(pool_, groups * strips, 1, [&](int64_t i) {
      const int64_t first = i / strips * images, first_row = i % strips * rows;
      if (first_row >= c_.height) return;
      kernels_.input_gradient(c_, output, packed.panels, first, std::min(c_.batch, first + images),
                              first_row, std::min(c_.height, first_row + rows), input);
    });
  }

  void kernel_gradient(const float* input, const float* output, float* kernel) {
    const int64_t size = c_.taps * c_.features;
    if (size == 0) return;
    if (c_.pixels == 0) return void(std::fill_n(kernel, size, 0.0f));
    // Small kernels: each part sums over some of the pixels; the partial sums are added in order.
    const int64_t chunks = std::clamp<int64_t>(
        std::min(c_.pixels / kChunkPixels, kPartialSums / size), 1, kMaxChunks);
    const int64_t pixels = ceil(c_.pixels, chunks);
    // Large kernels: each part computes some of the taps; 24 fill tiles of any height.
    const int64_t taps = 24 * std::max<int64_t>(1, c_.taps * chunks / (8 * pool_.threads) / 24);
    const int64_t tap_groups = ceil(c_.taps, taps);
    std::unique_ptr<float[]> others(new float[(chunks - 1) * size]);
    const int64_t vectors = panel_vectors(c_.features);
    parallel_for(pool_, chunks * tap_groups, 1, [&](int64_t i) {
      const int64_t chunk = i / tap_groups, first_tap = i % tap_groups * taps;
      float* sums = chunk ? &others[(chunk - 1) * size] : kernel;
      const int64_t last = std::min(c_.pixels, (chunk + 1) * pixels);
      const int64_t first = std::min(last, chunk * pixels);
      const int64_t last_tap = std::min(c_.taps, first_tap + taps);
      if (first == last)
        std::fill(sums + first_tap * c_.features, sums + last_tap * c_.features, 0.0f);
      kernels_.kernel_gradient(c_, input, output, vectors, first, last, first_tap, last_tap, sums);
    });
    for (int64_t chunk = 1; chunk < chunks; ++chunk)
      for (int64_t k = 0; k < size; ++k) kernel[k] += others[(chunk - 1) * size + k];
  }

 private:
  static constexpr int64_t kChunkPixels = 1024;
  static constexpr int64_t kPartialSums = int64_t{1} << 20;  // floats
  static constexpr int64_t kMaxChunks = 16;
  static constexpr double kPartCost = 500'000;  // multiplications that justify a thread

  static int64_t ceil(int64_t a, int64_t b) { return (a + b - 1) / b; }

  double pixel_cost() const { return static_cast<double>(c_.taps * c_.features); }

  // The number of items in a part: at most `most`, and several parts per thread if each has enough
  // work.
  int64_t parts(int64_t items, int64_t most, double cost) const {
    const int64_t fewest = std::max<int64_t>(1, static_cast<int64_t>(kPartCost / cost));
    return std::max<int64_t>(1, std::min(most, std::max(fewest, ceil(items, 4 * pool_.threads))));
  }

  // The number of vectors of a panel that needs the least padding; among equals the first.
  int64_t panel_vectors(int64_t columns) const {
    int64_t best = 1, least = INT64_MAX;
    for (const int64_t vectors : {2, 3, 1}) {
      const int64_t width = vectors * kernels_.lanes;
      const int64_t filled = ceil(columns, width) * width;
      if (filled < least) best = vectors, least = filled;
    }
    return best;
  }

  // A matrix [depth, columns] with the given strides, packed into panels.
  struct Packed {
    Packed(const ConvolutionPlan& plan, const float* from, int64_t depth, int64_t columns,
           int64_t by_depth, int64_t by_column) {
      const int64_t vectors = plan.panel_vectors(columns), width = vectors * plan.kernels_.lanes;
      const int64_t count = ceil(columns, width);
      memory.reset(new float[count * width * depth]);
      panels = {memory.get(), depth, columns, width, vectors};
      const int64_t grain = 1 + (1 << 14) / (width * depth + 1);
      parallel_for(plan.pool_, count, grain, [&](int64_t panel) {
        float* to = &memory[panel * width * depth];
        for (int64_t k = 0; k < depth; ++k)
          for (int64_t c = panel * width; c < (panel + 1) * width; ++c)
            *to++ = c < columns ? from[k * by_depth + c * by_column] : 0.0f;
      });
    }
    std::unique_ptr<float[]> memory;
    Panels panels;
  };

  // The runs of a window, in blocks of about kBlockTaps.
  struct Taps {
    explicit Taps(const Convolution& c) {
      int64_t in_block = 0;
      first.push_back(0);
      for (int64_t row = 0; row < c.kernel_height; ++row) {
        const int64_t length = c.kernel_width * c.channels, pieces = ceil(length, kBlockTaps);
        for (int64_t piece = 0; piece < pieces; ++piece) {
          const int64_t begin = piece * length / pieces, end = (piece + 1) * length / pieces;
          if (in_block > 0 && in_block + end - begin > kBlockTaps)
            first.push_back(static_cast<int64_t>(runs.size())), in_block = 0;
          runs.push_back({row * c.width * c.channels + begin, end - begin});
          in_block += end - begin;
        }
      }
      first.push_back(static_cast<int64_t>(runs.size()));
    }
    Blocks blocks() const {
      return {runs.data(), first.data(), static_cast<int64_t>(first.size()) - 1};
    }
    static constexpr int64_t kBlockTaps = 256;
    std::vector<Run> runs;
    std::vector<int64_t> first;
  };

  const Convolution& c_;
  const ConvolutionKernels& kernels_;
  const Pool& pool_;
};

}  // namespace stn

#endif  // STN_JAX_CONVOLUTION_PLAN_H_

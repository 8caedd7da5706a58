// A convolution of stride 1 without padding, and its two gradients: the parameters of a call, and
// the kernels that each instruction set provides.
//
// All three are products with a matrix that is never stored: row p is the window of the input under
// output pixel p, and column k holds the values under tap k = (row, column, channel) of the kernel.
//
//     output [p, features]         = windows [p, taps]     times kernel [taps, features]
//     kernel gradient              = windows transposed    times output [p, features]
//     gradient to windows [p, taps] = output [p, features] times kernel transposed
//
// In memory the value of tap k for pixel p is at offset(p) + offset(k).
#ifndef STN_JAX_CONVOLUTION_H_
#define STN_JAX_CONVOLUTION_H_

#include <cstdint>

namespace stn {

struct Convolution {
  int64_t batch, height, width, channels;          // of the input
  int64_t kernel_height, kernel_width, features;   // of the kernel
  int64_t out_height, out_width;
  int64_t taps, pixels;  // the total numbers, of the kernel and of the output
};

// Taps that are contiguous in memory, in the kernel and in the input.
struct Run {
  int64_t offset, length;
};

// The width in vectors of the widest panel of columns that is computed at once.
constexpr int kMaxVectors = 3;
// The most pixels of a part of the output, and of a step of the kernel's gradient: their offsets,
// and the values that all taps read, stay in the L1 cache.
constexpr int64_t kPartPixels = 384;
constexpr int64_t kStepPixels = 64;

// A matrix [depth, columns] in panels [depth, width] of adjacent columns, the last one padded with
// zeros. A product reads a panel from start to end.
struct Panels {
  const float* data;
  int64_t depth, columns, width, vectors;
};

// Taps in groups whose panels fit into the L1 cache.
struct Blocks {
  const Run* runs;
  const int64_t* first_run;  // of each block, and the end of the last
  int64_t count;
};

struct ConvolutionKernels {
  int64_t lanes;
  // Pixels [first, last), at most kPartPixels.
  void (*output)(const Convolution&, const float* input, const Panels& kernel, const Blocks& taps,
                 int64_t first, int64_t last, float* output);
  // Sums over pixels [first, last), for taps [first_tap, last_tap) of the kernel.
  void (*kernel_gradient)(const Convolution&, const float* input, const float* output,
                          int64_t vectors, int64_t first, int64_t last, int64_t first_tap,
                          int64_t last_tap, float* sums);
  // Rows [first_row, last_row) of images [first, last).
  void (*input_gradient)(const Convolution&, const float* output, const Panels& transposed,
                         int64_t first, int64_t last, int64_t first_row, int64_t last_row,
                         float* input);
};

}  // namespace stn

#endif  // STN_JAX_CONVOLUTION_H_

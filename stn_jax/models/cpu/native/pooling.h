// Maxima over windows that do not overlap, as what they select: from any values that lie as x does,
// those at x's maxima; and the transpose of that, which puts values there and zeros elsewhere.
#ifndef STN_JAX_POOLING_H_
#define STN_JAX_POOLING_H_

#include <cstdint>

namespace stn {

struct Pooling {
  int64_t images, height, width, channels;
  int64_t size;  // of the windows; what remains at the edges is in none
  int64_t out_height, out_width;
};

// Rows [first, last) of the output, counted through all images.
struct PoolingKernels {
  void (*select)(const Pooling&, const float* x, const float* values, int64_t first, int64_t last,
                 float* selected);
  // Also zeros in the rows and columns that are in no window.
  void (*transpose)(const Pooling&, const float* x, const float* selected, int64_t first,
                    int64_t last, float* values);
};

}  // namespace stn

#endif  // STN_JAX_POOLING_H_

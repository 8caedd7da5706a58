// Selection by non-overlapping windows: from an array of the shape of x, the values at the maxima
// of x; and its transpose, which writes values at the maxima and zeros elsewhere.
#ifndef STN_JAX_POOLING_H_
#define STN_JAX_POOLING_H_

#include <cstdint>

namespace stn {

struct Pooling {
  int64_t images, height, width, channels;
  int64_t size;  // of the windows; a remainder at the edges belongs to no window
  int64_t out_height, out_width;
};

// Both compute rows [first, last) of the output, numbered through all images.
struct PoolingKernels {
  void (*select)(const Pooling&, const float* x, const float* values, int64_t first, int64_t last,
                 float* selected);
  // Also writes zeros to the rows and columns that belong to no window.
  void (*transpose)(const Pooling&, const float* x, const float* selected, int64_t first,
                    int64_t last, float* values);
};

}  // namespace stn

#endif  // STN_JAX_POOLING_H_

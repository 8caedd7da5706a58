// The description of a call, shared by the code of all instruction sets.
//
// This header and all headers of the levels avoid templates of the standard library: the linker
// keeps only one copy of such a function, which could be the one compiled for AVX-512.
#ifndef STN_JAX_PROBLEM_H_
#define STN_JAX_PROBLEM_H_

#include <cstdint>

namespace stn {

enum Mode : int { kNearest, kLinear, kCubic };
enum Padding : int { kZeros, kBorder, kReflection };

constexpr int kMaxDims = 3;
constexpr int kMaxAxes = 16;
constexpr int kBlock = 64;  // samples whose positions are computed at a time
constexpr int kMaxTheta = kMaxDims * (kMaxDims + 1);

// One batch entry: which output (or cotangent), image and theta or grid belong together.
struct Entry {
  int64_t out, image, where;
};

// The leading axes. An image (or where) of size 1 along an axis is shared by all entries along it.
struct Batch {
  int axes = 0;
  int64_t size[kMaxAxes], image[kMaxAxes], where[kMaxAxes];
};

template <class T>
struct Problem {
  int dims;  // number of spatial dimensions, 2 or 3
  bool theta, align_corners;
  Mode mode;
  Padding padding;
  // Spatial sizes with x first: those of the image and of the output.
  int64_t size[kMaxDims], out_size[kMaxDims];
  int64_t channels, pixels, samples;  // of one image; of one output
  Batch batch;
  int64_t images, wheres;  // their numbers; below, the numbers of entries that share one
  int64_t entries_per_image, entries_per_where;
  const T* base[kMaxDims];  // with theta: normalized positions along each output axis
  const T *image, *where, *cotangent;
  T *out, *image_gradient, *where_gradient;

  int64_t rows() const { return pixels / size[0]; }
  int64_t where_size() const { return theta ? dims * (dims + 1) : samples * dims; }
};

// The index-th of the entries that share an image (owned: batch.image) or a where (batch.where).
static inline Entry locate(const Batch& batch, const int64_t* owned, int64_t owner, int64_t index) {
  Entry entry{0, 0, 0};
  int64_t out = 1, image = 1, where = 1;
  for (int axis = batch.axes - 1; axis >= 0; --axis) {
    const int64_t size = batch.size[axis];
    int64_t& rest = owned[axis] == size ? owner : index;
    const int64_t k = rest % size;
    rest /= size;
    entry.out += k * out;
    out *= size;
    if (batch.image[axis] == size) entry.image += k * image, image *= size;
    if (batch.where[axis] == size) entry.where += k * where, where *= size;
  }
  return entry;
}

// Parts of the work; each owns the memory that it writes. A SamplePart covers the samples
// [first, last) of a where, for all its entries; an ImagePart covers rows and channels of an image,
// from all samples of all its entries.
struct SamplePart {
  int64_t where, first, last;
};
struct ImagePart {
  int64_t image, first_row, last_row, first_channel, last_channel;
};

// The functions of one instruction set for one problem. `sums` receives a part's sums for theta's
// gradient, in float64; a grid's gradient is written to problem.where_gradient.
template <class T>
struct Kernels {
  void (*sample)(const Problem<T>&, const SamplePart&);
  void (*where_gradient)(const Problem<T>&, const SamplePart&, double* sums);
  void (*image_gradient)(const Problem<T>&, const ImagePart&);
  // Both gradients of a whole image; requires a where for each entry. The sums of the image's
  // entries follow each other.
  void (*both_gradients)(const Problem<T>&, int64_t image, double* sums);
};

}  // namespace stn

#endif  // STN_JAX_PROBLEM_H_

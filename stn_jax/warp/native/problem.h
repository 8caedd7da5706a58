// What a call asks for, as the code of every instruction set sees it.
//
// This header and those that the levels include use no templates of the standard library: the
// linker keeps one copy of such a function, and it could be the one compiled for AVX-512.
#ifndef STN_JAX_PROBLEM_H_
#define STN_JAX_PROBLEM_H_

#include <cstdint>

namespace stn {

enum Mode : int { kNearest, kLinear, kCubic };
enum Padding : int { kZeros, kBorder, kReflection };

constexpr int kMaxRank = 3;
constexpr int kMaxAxes = 16;
constexpr int kBlock = 64;  // samples whose positions are computed at a time
constexpr int kMaxTheta = kMaxRank * (kMaxRank + 1);

// One batch entry: which output (or cotangent), image and theta or grid belong together.
struct Entry {
  int64_t out, image, where;
};

// The leading axes. An image (or where) of size 1 along an axis serves all entries along it.
struct Batch {
  int axes = 0;
  int64_t size[kMaxAxes], image[kMaxAxes], where[kMaxAxes];
};

template <class T>
struct Problem {
  int rank;
  bool theta, align_corners;
  Mode mode;
  Padding padding;
  // Spatial sizes with x first: those of the image and of the output.
  int64_t size[kMaxRank], out_size[kMaxRank];
  int64_t channels, pixels, samples;  // of one image; of one output
  Batch batch;
  int64_t images, wheres;  // how many there are, and how many entries each serves
  int64_t entries_per_image, entries_per_where;
  const T* base[kMaxRank];  // with theta: normalised positions along each output axis
  const T *image, *where, *cotangent;
  T *out, *image_gradient, *where_gradient;

  int64_t rows() const { return pixels / size[0]; }
  int64_t where_size() const { return theta ? rank * (rank + 1) : samples * rank; }
};

// The share-th of the entries that an image (owned: batch.image) or a where (batch.where) serves.
static inline Entry locate(const Batch& batch, const int64_t* owned, int64_t owner, int64_t share) {
  Entry entry{0, 0, 0};
  int64_t out = 1, image = 1, where = 1;
  for (int axis = batch.axes - 1; axis >= 0; --axis) {
    const int64_t size = batch.size[axis];
    int64_t& rest = owned[axis] == size ? owner : share;
    const int64_t k = rest % size;
    rest /= size;
    entry.out += k * out;
    out *= size;
    if (batch.image[axis] == size) entry.image += k * image, image *= size;
    if (batch.where[axis] == size) entry.where += k * where, where *= size;
  }
  return entry;
}

// A part of the work that owns what it writes. Of a where: the samples [first, last) for all its
// entries. Of an image: its rows and channels, from all samples of all its entries.
struct SamplePart {
  int64_t where, first, last;
};
struct ImagePart {
  int64_t image, first_row, last_row, first_channel, last_channel;
};

// The functions of one instruction set for one problem. `sums` receives a part's sums of theta's
// gradient in float64; a grid's gradient goes to problem.where_gradient.
template <class T>
struct Kernels {
  void (*sample)(const Problem<T>&, const SamplePart&);
  void (*where_gradient)(const Problem<T>&, const SamplePart&, double* sums);
  void (*image_gradient)(const Problem<T>&, const ImagePart&);
  // Both for a whole image; needs a where for each entry. Sums: of the image's entries in turn.
  void (*both_gradients)(const Problem<T>&, int64_t image, double* sums);
};

}  // namespace stn

#endif  // STN_JAX_PROBLEM_H_

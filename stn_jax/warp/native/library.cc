// The library's interface: two handlers for XLA's FFI, and the functions that Python calls first.
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "host.h"
#include "plan.h"

#define STN_DECLARE_LEVEL(level) \
  namespace stn::level {         \
  template <class T>             \
  Kernels<T> find_kernels(const Problem<T>& problem); \
  }
#if defined(__x86_64__)
STN_DECLARE_LEVEL(avx2)
STN_DECLARE_LEVEL(avx512)
#else
STN_DECLARE_LEVEL(generic)
#endif

namespace stn {
namespace {

constexpr const char* kLevelNames[] = {"", "generic", "avx2", "avx512"};

// The widest supported by this processor, or the one in STN_JAX_NATIVE_LEVEL if it is supported.
Level find_level() {
  std::vector<Level> levels;  // best first
#if defined(__x86_64__)
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") &&
                      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
                      __builtin_cpu_supports("avx512bw");
  if (avx512) levels.push_back(kAvx512);
  if (avx2) levels.push_back(kAvx2);
#else
  levels.push_back(kGeneric);
#endif
  const char* forced = std::getenv("STN_JAX_NATIVE_LEVEL");
  for (const Level level : levels)
    if (!forced || !*forced || std::strcmp(forced, kLevelNames[level]) == 0) return level;
  return kNone;
}

std::atomic<int64_t> threads_seen{0};

}  // namespace

Level level() {
  static const Level found = find_level();
  return found;
}

Pool pool_of(ffi::ThreadPool& threads) {
  const int64_t count = std::max<int64_t>(1, threads.num_threads());
  threads_seen = count;
  return {count, [&threads](std::function<void()> task) { threads.Schedule(std::move(task)); }};
}

void prepare_result(void* data, size_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  constexpr uintptr_t kPage = uintptr_t{1} << 21;
  const uintptr_t first = (reinterpret_cast<uintptr_t>(data) + kPage - 1) & ~(kPage - 1);
  const uintptr_t last = (reinterpret_cast<uintptr_t>(data) + bytes) & ~(kPage - 1);
  if (first < last) madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
#else
  (void)data, (void)bytes;
#endif
}

std::string shape_of(const ffi::AnyBuffer& buffer) {
  std::string text = "[";
  for (const int64_t size : buffer.dimensions())
    text += (text.size() > 1 ? ", " : "") + std::to_string(size);
  return text + "]";
}

namespace {

template <class T>
Kernels<T> find_kernels(const Problem<T>& problem) {
#if defined(__x86_64__)
  return level() == kAvx512 ? avx512::find_kernels(problem) : avx2::find_kernels(problem);
#else
  return generic::find_kernels(problem);
#endif
}

struct Options {
  int64_t dims, theta, mode, padding, align_corners;
};

// A problem and the memory that it points to.
template <class T>
struct Call {
  Problem<T> problem{};
  std::vector<T> base[kMaxDims];
  int64_t outputs = 0;  // total number of output elements

  // Fills in the problem, except for its results. Returns an error if the arguments do not match.
  ffi::Error read(const Options& options, const ffi::AnyBuffer& image, const ffi::AnyBuffer& where,
                  const ffi::AnyBuffer& out) {
    const auto fail = [&](const std::string& what) {
      return ffi::Error::InvalidArgument("stn_jax: " + what + ": image " + shape_of(image) +
                                         ", where " + shape_of(where) + ", output " +
                                         shape_of(out));
    };
    Problem<T>& p = problem;
    const int dims = static_cast<int>(options.dims);
    if (options.dims < 2 || options.dims > 3 || options.mode < 0 || options.mode > 2 ||
        options.padding < 0 || options.padding > 2 || (options.mode == kCubic && dims == 3))
      return fail("unknown number of dimensions, mode or padding");
    if (image.element_type() != where.element_type() || image.element_type() != out.element_type())
      return fail("element types differ");
    const auto s = image.dimensions(), w = where.dimensions(), o = out.dimensions();
    const size_t axes = s.size() - dims - 1, where_axes = options.theta ? 2 : dims + 1;
    if (s.size() < size_t(dims) + 1 || o.size() != s.size() || w.size() != axes + where_axes)
      return fail("the numbers of axes do not match");
    p.dims = dims;
    p.theta = options.theta != 0;
    p.align_corners = options.align_corners != 0;
    p.mode = static_cast<Mode>(options.mode);
    p.padding = static_cast<Padding>(options.padding);
    p.channels = s.back();
    p.pixels = p.samples = 1;
    bool fits = o.back() == p.channels && w.back() == (p.theta ? dims + 1 : dims);
    fits = fits && (!p.theta || w[axes] == dims);
    for (int axis = 0; axis < dims; ++axis) {
      const size_t at = axes + dims - 1 - axis;
      p.size[axis] = s[at];
      p.out_size[axis] = o[at];
      p.pixels *= s[at];
      p.samples *= o[at];
      fits = fits && (p.theta || w[at] == o[at]);
    }
    if (!fits) return fail("the shapes do not match");
    if (!read_batch(s, w, o, axes))
      return fail("the leading axes do not broadcast, or there are too many");
    outputs = p.samples * p.channels;
    for (size_t axis = 0; axis < axes; ++axis) outputs *= o[axis];
    if (p.pixels == 0 && outputs > 0) return fail("there is no pixel to sample from");
    if (p.pixels > INT32_MAX) return fail("the image has more than 2**31 - 1 pixels");
    p.image = image.typed_data<T>();
    p.where = where.typed_data<T>();
    if (p.theta && outputs > 0) fill_base();
    return ffi::Error::Success();
  }

 private:
  bool read_batch(ffi::Span<const int64_t> s, ffi::Span<const int64_t> w,
                  ffi::Span<const int64_t> o, size_t axes) {
    Problem<T>& p = problem;
    p.images = p.wheres = p.entries_per_image = p.entries_per_where = 1;
    for (size_t axis = 0; axis < axes; ++axis) {
      const int64_t size = o[axis];
      if ((s[axis] != size && s[axis] != 1) || (w[axis] != size && w[axis] != 1)) return false;
      p.images *= s[axis];
      p.wheres *= w[axis];
      if (size == 1) continue;
      if (p.batch.axes == kMaxAxes) return false;
      if (s[axis] == 1) p.entries_per_image *= size;
      if (w[axis] == 1) p.entries_per_where *= size;
      p.batch.size[p.batch.axes] = size;
      p.batch.image[p.batch.axes] = s[axis];
      p.batch.where[p.batch.axes] = w[axis];
      ++p.batch.axes;
    }
    return true;
  }

  void fill_base() {
    for (int axis = 0; axis < problem.dims; ++axis) {
      const int64_t n = problem.out_size[axis];
      base[axis].resize(n);
      const double step = n > 1 ? 2.0 / (n - 1) : 0.0;
      for (int64_t j = 0; j < n; ++j) {
        const double outer = (2.0 * j + 1) / n - 1, inner = n > 1 ? j * step - 1 : 0;
        base[axis][j] = static_cast<T>(problem.align_corners ? inner : outer);
      }
      problem.base[axis] = base[axis].data();
    }
  }
};

template <class T>
ffi::Error sample(ffi::ThreadPool& threads, const Options& options, const ffi::AnyBuffer& image,
                  const ffi::AnyBuffer& where, ffi::AnyBuffer& out) {
  Call<T> call;
  const ffi::Error error = call.read(options, image, where, out);
  if (error.failure() || call.outputs == 0) return error;
  call.problem.out = out.typed_data<T>();
  prepare_result(call.problem.out, out.size_bytes());
  const Kernels<T> kernels = find_kernels(call.problem);
  const Pool pool = pool_of(threads);
  Plan<T>(call.problem, kernels, pool).sample();
  return error;
}

template <class T>
ffi::Error adjoint(ffi::ThreadPool& threads, const Options& options, const ffi::AnyBuffer& image,
                   const ffi::AnyBuffer& where, const ffi::AnyBuffer& cotangent,
                   const ffi::AnyBuffer* image_gradient, const ffi::AnyBuffer* where_gradient) {
  Call<T> call;
  // Without the gradient to where, the image is not read and may be anything.
  const ffi::AnyBuffer& pixels = where_gradient ? image : *image_gradient;
  const ffi::Error error = call.read(options, pixels, where, cotangent);
  if (error.failure()) return error;
  for (const auto& [result, like] : {std::pair(image_gradient, &pixels), {where_gradient, &where}}) {
    if (!result) continue;
    if (result->element_type() != like->element_type() ||
        result->element_count() != like->element_count())
      return ffi::Error::InvalidArgument("stn_jax: a gradient has shape " + shape_of(*result) +
                                         ", its argument " + shape_of(*like));
    prepare_result(result->untyped_data(), result->size_bytes());
    if (call.outputs == 0 && result->size_bytes() > 0)
      std::memset(result->untyped_data(), 0, result->size_bytes());
  }
  if (call.outputs == 0) return error;
  call.problem.cotangent = cotangent.typed_data<T>();
  if (image_gradient) call.problem.image_gradient = image_gradient->typed_data<T>();
  if (where_gradient) call.problem.where_gradient = where_gradient->typed_data<T>();
  const Kernels<T> kernels = find_kernels(call.problem);
  const Pool pool = pool_of(threads);
  Plan<T>(call.problem, kernels, pool).gradients();
  return error;
}

ffi::Error unsupported(const ffi::AnyBuffer& image) {
  return ffi::Error::InvalidArgument(
      level() == kNone ? "stn_jax: this processor supports none of the library's instruction sets"
                       : "stn_jax: expected float32 or float64, image is " + shape_of(image));
}

ffi::Error handle_sample(ffi::ThreadPool threads, ffi::AnyBuffer image, ffi::AnyBuffer where,
                         ffi::Result<ffi::AnyBuffer> out, int64_t dims, int64_t theta,
                         int64_t mode, int64_t padding, int64_t align_corners) {
  const Options options{dims, theta, mode, padding, align_corners};
  if (level() == kNone) return unsupported(image);
  switch (image.element_type()) {
    case ffi::F32: return sample<float>(threads, options, image, where, *out);
    case ffi::F64: return sample<double>(threads, options, image, where, *out);
    default: return unsupported(image);
  }
}

ffi::Error handle_adjoint(ffi::ThreadPool threads, ffi::AnyBuffer image, ffi::AnyBuffer where,
                          ffi::AnyBuffer cotangent, ffi::RemainingRets results, int64_t dims,
                          int64_t theta, int64_t mode, int64_t padding, int64_t align_corners,
                          int64_t image_gradient, int64_t where_gradient) {
  const Options options{dims, theta, mode, padding, align_corners};
  if (level() == kNone) return unsupported(image);
  std::vector<ffi::AnyBuffer> wanted;
  for (size_t i = 0; i < results.size(); ++i) {
    auto result = results.get<ffi::AnyBuffer>(i);
    if (result.has_error()) return result.error();
    wanted.push_back(**result);
  }
  if (wanted.empty() || wanted.size() != size_t((image_gradient != 0) + (where_gradient != 0)))
    return ffi::Error::InvalidArgument("stn_jax: the results do not match the requested gradients");
  const ffi::AnyBuffer* of_image = image_gradient ? &wanted.front() : nullptr;
  const ffi::AnyBuffer* of_where = where_gradient ? &wanted.back() : nullptr;
  switch (image.element_type()) {
    case ffi::F32:
      return adjoint<float>(threads, options, image, where, cotangent, of_image, of_where);
    case ffi::F64:
      return adjoint<double>(threads, options, image, where, cotangent, of_image, of_where);
    default: return unsupported(image);
  }
}

}  // namespace
}  // namespace stn

#pragma GCC visibility push(default)

XLA_FFI_DEFINE_HANDLER_SYMBOL(stn_jax_sample, stn::handle_sample,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Ret<ffi::AnyBuffer>()
                                  .Attr<int64_t>("rank")
                                  .Attr<int64_t>("theta")
                                  .Attr<int64_t>("mode")
                                  .Attr<int64_t>("padding")
                                  .Attr<int64_t>("align_corners"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(stn_jax_adjoint, stn::handle_adjoint,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .RemainingRets()
                                  .Attr<int64_t>("rank")
                                  .Attr<int64_t>("theta")
                                  .Attr<int64_t>("mode")
                                  .Attr<int64_t>("padding")
                                  .Attr<int64_t>("align_corners")
                                  .Attr<int64_t>("image_gradient")
                                  .Attr<int64_t>("where_gradient"));

// The instruction set in use; empty if this processor supports none of those the library has.
extern "C" const char* stn_jax_level() { return stn::kLevelNames[stn::level()]; }

// The version of XLA's FFI that the library was built against: 1000 * major + minor.
extern "C" int stn_jax_ffi_version() { return 1000 * XLA_FFI_API_MAJOR + XLA_FFI_API_MINOR; }

// The number of threads in XLA's pool at the last call; 0 before the first.
extern "C" int64_t stn_jax_threads() { return stn::threads_seen; }

#pragma GCC visibility pop

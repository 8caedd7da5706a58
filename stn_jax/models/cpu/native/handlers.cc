// Handlers for XLA's FFI: convolution and pooling of whole arrays, and their gradients.
#include <algorithm>

#include "convolution_plan.h"
#include "host.h"
#include "pooling.h"

#define STN_DECLARE_LEVEL(level)                  \
  namespace stn::level {                          \
  ConvolutionKernels find_convolution_kernels();  \
  PoolingKernels find_pooling_kernels();          \
  }
#if defined(__x86_64__)
STN_DECLARE_LEVEL(avx2)
STN_DECLARE_LEVEL(avx512)
#define STN_FIND(kernels) (level() == kAvx512 ? avx512::kernels() : avx2::kernels())
#else
STN_DECLARE_LEVEL(generic)
#define STN_FIND(kernels) generic::kernels()
#endif

namespace stn {
namespace {

using Shape = ffi::Span<const int64_t>;

// The convolutions that a call computes, one for each entry of the leading axes. An operand of size
// 1 along a leading axis is broadcast.
struct Calls {
  int64_t count = 1;
  size_t axes = 0;

  bool read(Shape a, Shape b, Shape result) {
    axes = result.size() - 4;
    if (result.size() < 4 || a.size() != result.size() || b.size() != result.size()) return false;
    for (size_t axis = 0; axis < axes; ++axis) {
      const int64_t size = result[axis];
      if ((a[axis] != size && a[axis] != 1) || (b[axis] != size && b[axis] != 1)) return false;
      count *= size;
    }
    return true;
  }

  // The offset of an operand's part for one of the convolutions.
  int64_t offset(Shape operand, Shape result, int64_t call) const {
    int64_t part = 1, at = 0;
    for (size_t axis = axes; axis < axes + 4; ++axis) part *= operand[axis];
    for (size_t axis = axes; axis-- > 0;) {
      at += operand[axis] == 1 ? 0 : call % result[axis] * part;
      part *= operand[axis];
      call /= result[axis];
    }
    return at;
  }
};

enum Wanted { kInput, kKernel, kOutput };

ffi::Error convolve(ffi::ThreadPool threads, ffi::AnyBuffer a, ffi::AnyBuffer b,
                    ffi::Result<ffi::AnyBuffer> result, int64_t wanted) {
  const auto fail = [&](const std::string& what) {
    return ffi::Error::InvalidArgument("stn_jax: " + what + ": " + shape_of(a) + " and " +
                                       shape_of(b) + " to " + shape_of(*result));
  };
  if (level() == kNone)
    return fail("this processor supports none of the library's instruction sets");
  for (const ffi::DataType type : {a.element_type(), b.element_type(), result->element_type()})
    if (type != ffi::F32) return fail("expected float32");
  const Shape shape_a = a.dimensions(), shape_b = b.dimensions(), shape = result->dimensions();
  Calls calls;
  if (wanted < kInput || wanted > kOutput || !calls.read(shape_a, shape_b, shape))
    return fail("the leading axes do not match");
  // The operands are given in the order input, kernel, output, without the wanted one.
  const Shape whole[] = {wanted == kInput ? shape : shape_a,
                         wanted == kKernel ? shape : wanted == kInput ? shape_a : shape_b,
                         wanted == kOutput ? shape : shape_b};
  const int64_t* x = whole[0].begin() + calls.axes;
  const int64_t* k = whole[1].begin() + calls.axes;
  const int64_t* o = whole[2].begin() + calls.axes;
  const Convolution c{x[0], x[1], x[2], x[3], k[0], k[1], k[3],
                      o[1], o[2], k[0] * k[1] * k[2], o[0] * o[1] * o[2]};
  if (o[0] != x[0] || k[2] != x[3] || o[3] != k[3] || o[1] != x[1] - k[0] + 1 ||
      o[2] != x[2] - k[1] + 1)
    return fail("the shapes do not match");
  prepare_result(result->untyped_data(), result->size_bytes());
  const ConvolutionKernels kernels = STN_FIND(find_convolution_kernels);
  const Pool pool = pool_of(threads);
  ConvolutionPlan plan(c, kernels, pool);
  for (int64_t call = 0; call < calls.count; ++call) {
    const float* first = a.typed_data<float>() + calls.offset(shape_a, shape, call);
    const float* second = b.typed_data<float>() + calls.offset(shape_b, shape, call);
    float* to = result->typed_data<float>() + calls.offset(shape, shape, call);
    if (wanted == kInput) plan.input_gradient(first, second, to);
    if (wanted == kKernel) plan.kernel_gradient(first, second, to);
    if (wanted == kOutput) plan.output(first, second, to);
  }
  return ffi::Error::Success();
}

// If `transposed`, `values` has the pooled shape and the result has the shape of x.
ffi::Error pool(ffi::ThreadPool threads, ffi::AnyBuffer x, ffi::AnyBuffer values,
                ffi::Result<ffi::AnyBuffer> result, int64_t size, int64_t transposed) {
  const auto fail = [&](const std::string& what) {
    return ffi::Error::InvalidArgument("stn_jax: " + what + ": " + shape_of(x) + " and " +
                                       shape_of(values) + " to " + shape_of(*result));
  };
  if (level() == kNone)
    return fail("this processor supports none of the library's instruction sets");
  for (const ffi::DataType type : {x.element_type(), values.element_type(), result->element_type()})
    if (type != ffi::F32) return fail("expected float32");
  const Shape s = x.dimensions();
  if (s.size() < 3 || size < 1) return fail("expected images");
  const size_t axes = s.size() - 3;
  Pooling p{1, s[axes], s[axes + 1], s[axes + 2], size, s[axes] / size, s[axes + 1] / size};
  for (size_t axis = 0; axis < axes; ++axis) p.images *= s[axis];
  const size_t all = x.element_count();
  const size_t pooled = static_cast<size_t>(p.images * p.out_height * p.out_width * p.channels);
  if (values.element_count() != (transposed ? pooled : all) ||
      result->element_count() != (transposed ? all : pooled))
    return fail("the shapes do not match");
  float* to = result->typed_data<float>();
  prepare_result(to, result->size_bytes());
  if (pooled == 0) {
    std::fill_n(to, result->element_count(), 0.0f);
    return ffi::Error::Success();
  }
  const PoolingKernels kernels = STN_FIND(find_pooling_kernels);
  const auto work = transposed ? kernels.transpose : kernels.select;
  const int64_t rows = p.images * p.out_height;
  const int64_t part = 1 + (1 << 14) / (p.width * p.channels * size);
  parallel_for(pool_of(threads), (rows + part - 1) / part, 1, [&](int64_t i) {
    work(p, x.typed_data<float>(), values.typed_data<float>(), i * part,
         std::min(rows, (i + 1) * part), to);
  });
  return ffi::Error::Success();
}

}  // namespace
}  // namespace stn

#pragma GCC visibility push(default)

XLA_FFI_DEFINE_HANDLER_SYMBOL(stn_jax_convolve, stn::convolve,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Ret<ffi::AnyBuffer>()
                                  .Attr<int64_t>("wanted"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(stn_jax_pool, stn::pool,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Ret<ffi::AnyBuffer>()
                                  .Attr<int64_t>("size")
                                  .Attr<int64_t>("transposed"));

#pragma GCC visibility pop

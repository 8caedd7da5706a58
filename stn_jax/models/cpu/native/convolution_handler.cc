// The handler for XLA's FFI: convolutions and their gradients of whole arrays.
#include <memory>

#include "convolution_plan.h"
#include "host.h"

#if defined(__x86_64__)
namespace stn::avx2 {
ConvolutionKernels find_convolution_kernels();
}
namespace stn::avx512 {
ConvolutionKernels find_convolution_kernels();
}
#else
namespace stn::generic {
ConvolutionKernels find_convolution_kernels();
}
#endif

namespace stn {
namespace {

ConvolutionKernels find_kernels() {
#if defined(__x86_64__)
  return level() == kAvx512 ? avx512::find_convolution_kernels() : avx2::find_convolution_kernels();
#else
  return generic::find_convolution_kernels();
#endif
}

using Shape = ffi::Span<const int64_t>;

// The convolutions that a call computes, one for each entry of its leading axes. An operand that
// has a size of 1 along one of them serves all entries of it.
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

  // Where the operand's part for a call begins.
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
    return fail("this processor has none of the library's instruction sets");
  for (const ffi::DataType type : {a.element_type(), b.element_type(), result->element_type()})
    if (type != ffi::F32) return fail("expected float32");
  const Shape shape_a = a.dimensions(), shape_b = b.dimensions(), shape = result->dimensions();
  Calls calls;
  if (wanted < kInput || wanted > kOutput || !calls.read(shape_a, shape_b, shape))
    return fail("leading axes do not fit");
  // In the order input, kernel, output without the one that is wanted.
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
    return fail("shapes do not fit");
  prepare_result(result->untyped_data(), result->size_bytes());
  const ConvolutionKernels kernels = find_kernels();
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

#pragma GCC visibility pop

// Shared by all handlers of the library: the instruction set in use, XLA's threads, messages.
#ifndef STN_JAX_HOST_H_
#define STN_JAX_HOST_H_

#include <string>

#include "parallel.h"
#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

namespace stn {

enum Level { kNone, kGeneric, kAvx2, kAvx512 };

Level level();

Pool pool_of(ffi::ThreadPool& threads);

// Requests huge pages for fresh memory: page faults take half of the time of a large result.
void prepare_result(void* data, size_t bytes);

std::string shape_of(const ffi::AnyBuffer& buffer);

}  // namespace stn

#endif  // STN_JAX_HOST_H_

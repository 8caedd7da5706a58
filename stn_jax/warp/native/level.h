// The functions that one instruction set (a level) provides. The files that include this are
// compiled once for each level, with its flags and with STN_LEVEL as the name of its namespace.
#ifndef STN_JAX_LEVEL_H_
#define STN_JAX_LEVEL_H_

#include "problem.h"

#ifdef STN_LEVEL
namespace stn::STN_LEVEL {

// Positions of up to kBlock consecutive samples of an output, by axis, x first. Entries past the
// count are arbitrary but finite.
template <class T>
struct Positions {
  T pixel[kMaxDims][kBlock];  // in pixels, mapped into the image according to the padding
  T scale[kMaxDims][kBlock];  // derivative by the normalized position; 0 where clamped
  T base[kMaxDims][kBlock];   // with theta: the normalized output position; 0 past the count
};

template <class T>
void find_positions(const Problem<T>& problem, const T* where, int64_t first, int count,
                    Positions<T>* positions);

// Maps a block of positions along an axis into the image, and flips or zeroes their derivatives.
template <class T>
void pad(const Problem<T>& problem, int axis, T* x, T* scale);

template <class T>
Kernels<T> find_kernels(const Problem<T>& problem);

}  // namespace stn::STN_LEVEL
#endif

#endif  // STN_JAX_LEVEL_H_

// What one instruction set (a level) provides. The files that include this are compiled once for
// each, with its flags and with STN_LEVEL as the name of its namespace.
#ifndef STN_JAX_LEVEL_H_
#define STN_JAX_LEVEL_H_

#include "problem.h"

#ifdef STN_LEVEL
namespace stn::STN_LEVEL {

// Positions of up to kBlock consecutive samples of an output, by axis, x first. Past the count they
// are of anything finite.
template <class T>
struct Positions {
  T pixel[kMaxRank][kBlock];  // in pixels, moved into the image as the padding says
  T scale[kMaxRank][kBlock];  // their derivative by the normalised position; 0 where clamped
  T base[kMaxRank][kBlock];   // with theta: the normalised output position; 0 past the count
};

template <class T>
void find_positions(const Problem<T>& problem, const T* where, int64_t first, int count,
                    Positions<T>* positions);

// Moves a block of positions along an axis into the image, and turns or stops their derivative.
template <class T>
void pad(const Problem<T>& problem, int axis, T* x, T* scale);

template <class T>
Kernels<T> find_kernels(const Problem<T>& problem);

}  // namespace stn::STN_LEVEL
#endif

#endif  // STN_JAX_LEVEL_H_

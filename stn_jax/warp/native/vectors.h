// Short vectors of any width, for any instruction set: GCC's and Clang's vector extensions.
#ifndef STN_JAX_VECTORS_H_
#define STN_JAX_VECTORS_H_

#include <cstdint>
#include <cstring>

#define STN_INLINE inline __attribute__((always_inline))

#ifdef STN_LEVEL
namespace stn::STN_LEVEL {
namespace {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif
template <class T>
constexpr int kLanes = kVectorBytes / sizeof(T);

template <class T>
struct IntOf {
  using type = int32_t;
};
template <>
struct IntOf<double> {
  using type = int64_t;
};
template <class T>
using Int = typename IntOf<T>::type;  // as wide as T, like the results of vector comparisons

template <class T, int W>
struct VectorOf {
  typedef T type __attribute__((vector_size(W * sizeof(T))));
};
template <class T>
struct VectorOf<T, 1> {
  using type = T;
};
template <class T, int W>
using Vector = typename VectorOf<T, W>::type;

template <class T, int W>
STN_INLINE Vector<T, W> load(const T* from) {
  Vector<T, W> v;
  std::memcpy(&v, from, sizeof(v));
  return v;
}

template <class T, int W>
STN_INLINE void store(T* to, Vector<T, W> v) {
  std::memcpy(to, &v, sizeof(v));
}

// Three elements in a vector of four; the last is 0.
template <class T>
STN_INLINE Vector<T, 4> load3(const T* from) {
  return Vector<T, 4>{from[0], from[1], from[2], T(0)};
}

template <class T>
STN_INLINE void store3(T* to, Vector<T, 4> v) {
  store<T, 2>(to, Vector<T, 2>{v[0], v[1]});
  to[2] = v[2];
}

// Adds a vector's halves repeatedly, down to W lanes.
template <class T, int From, int W>
STN_INLINE Vector<T, W> pairwise_sum(Vector<T, From> v) {
  if constexpr (From == W) {
    return v;
  } else {
    T lanes[From];
    std::memcpy(lanes, &v, sizeof(v));
    return pairwise_sum<T, From / 2, W>(load<T, From / 2>(lanes) +
                                        load<T, From / 2>(lanes + From / 2));
  }
}

template <int W>
struct Width {
  static constexpr int value = W;
};

// Calls f(Width<W>{}, c) for c in [c, end) in steps of W; the remainder in halves of that.
template <int W, class F>
STN_INLINE void by_vectors(int64_t c, int64_t end, const F& f) {
  for (; c + W <= end; c += W) f(Width<W>{}, c);
  if constexpr (W > 1) by_vectors<W / 2>(c, end, f);
}

}  // namespace
}  // namespace stn::STN_LEVEL
#endif

#endif  // STN_JAX_VECTORS_H_

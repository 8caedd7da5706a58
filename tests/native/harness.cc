// Random cases for the native kernels, without JAX: each is computed on 1, 2, 3 and 7 threads, whose
// results must have the same bits, and in float64 compared with plain loops over single samples.
// Arrays are exactly as large as they must be, so that AddressSanitizer sees what reads past them.
//
//   harness SEED CASES     prints one line: how many cases ran and what was compared
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <random>
#include <thread>
#include <vector>

#include "plan.h"

namespace stn::STN_LEVEL {
template <class T>
Kernels<T> find_kernels(const Problem<T>& problem);
}

namespace {

using namespace stn;
constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr double kInf = std::numeric_limits<double>::infinity();

struct Random {
  std::mt19937_64 engine;
  int64_t below(int64_t n) { return static_cast<int64_t>(engine() % static_cast<uint64_t>(n)); }
  bool chance(double p) { return std::uniform_real_distribution<>()(engine) < p; }
  double normal() { return std::normal_distribution<>()(engine); }
  template <size_t N>
  int64_t of(const int64_t (&list)[N]) { return list[below(N)]; }
};

// A problem with the memory of its arrays, each exactly as long as its elements.
template <class T>
struct Case {
  Problem<T> problem{};
  std::vector<T> base[kMaxDims], image, where, cotangent;
  int64_t entries = 1, number;

  Case(Random& random, int64_t number) : number(number) {
    Problem<T>& p = problem;
    p.dims = random.chance(0.3) ? 3 : 2;
    p.theta = random.chance(0.5), p.align_corners = random.chance(0.5);
    p.mode = random.chance(0.6) ? kLinear : static_cast<Mode>(random.below(p.dims == 2 ? 3 : 2));
    p.padding = static_cast<Padding>(random.below(3));
    p.channels = random.of({0, 1, 1, 1, 2, 3, 3, 4, 5, 7, 8, 9, 16, 17, 31, 64, 200});
    p.pixels = p.samples = 1;
    const bool points = random.chance(0.1);  // many samples in one row
    for (int axis = 0; axis < p.dims; ++axis) {
      p.size[axis] = random.chance(0.15) ? 1 : 1 + random.below(p.dims == 2 ? 14 : 7);
      const int64_t size = random.chance(0.02) ? 0 : 1 + random.below(p.dims == 2 ? 14 : 6);
      p.out_size[axis] = points ? (axis ? 1 : 1 + random.below(1500)) : size;
      p.pixels *= p.size[axis];
      p.samples *= p.out_size[axis];
    }
    p.images = p.wheres = p.entries_per_image = p.entries_per_where = 1;
    p.batch.axes = static_cast<int>(random.below(4));
    for (int axis = 0; axis < p.batch.axes; ++axis) {
      const int64_t size = random.chance(0.05) ? 20 : 2 + random.below(3);
      const bool one_image = random.chance(0.25), one_where = !one_image && random.chance(0.3);
      p.batch.size[axis] = size;
      p.batch.image[axis] = one_image ? 1 : size;
      p.batch.where[axis] = one_where ? 1 : size;
      p.images *= p.batch.image[axis], p.wheres *= p.batch.where[axis];
      if (one_image) p.entries_per_image *= size;
      if (one_where) p.entries_per_where *= size;
      entries *= size;
    }
    fill_base();
    fill(random, random.chance(0.3) ? 0.02 : 0, 3, p.images * p.pixels * p.channels, &image);
    fill(random, 0, 3, entries * p.samples * p.channels, &cotangent);
    fill(random, random.chance(0.5) ? 0.1 : 0, 11, p.wheres * p.where_size(), &where);
    p.image = image.data(), p.where = where.data(), p.cotangent = cotangent.data();
  }

  // Normal numbers, a fraction of them replaced by one of the first `kinds` of a list.
  static void fill(Random& random, double fraction, int64_t kinds, int64_t count,
                   std::vector<T>* array) {
    static constexpr double kHostile[] = {kNan, kInf, -kInf, 1e38, -1e38, 0, -0.0, 1, -1, 1e10, 3e9};
    for (int64_t i = 0; i < count; ++i)
      array->push_back(static_cast<T>(random.chance(fraction) ? kHostile[random.below(kinds)]
                                                             : 0.8 * random.normal()));
    array->shrink_to_fit();
  }

  void fill_base() {
    for (int axis = 0; axis < problem.dims; ++axis) {
      const int64_t n = problem.out_size[axis];
      for (int64_t j = 0; j < n; ++j)
        base[axis].push_back(static_cast<T>(
            problem.align_corners ? (n > 1 ? j * (2.0 / (n - 1)) - 1 : 0) : (2.0 * j + 1) / n - 1));
      base[axis].shrink_to_fit();
      problem.base[axis] = base[axis].data();
    }
  }
};

template <class T>
struct Results {
  std::vector<T> out, image_gradient, where_gradient;

  explicit Results(const Case<T>& c)
      : out(c.entries * c.problem.samples * c.problem.channels),
        image_gradient(c.image.size()),
        where_gradient(c.where.size()) {}
};

// --- the kernels, on a pool of threads -----------------------------------------------------------

class Threads {
 public:
  explicit Threads(int count) : pool_{count, [this](std::function<void()> f) { start(f); }} {}
  ~Threads() {
    for (std::thread& thread : running_) thread.join();
  }
  const Pool& pool() const { return pool_; }

 private:
  void start(const std::function<void()>& f) { running_.emplace_back(f); }
  std::vector<std::thread> running_;
  Pool pool_;
};

template <class T>
void compute(const Case<T>& c, int threads, bool image, bool where, Results<T>* results) {
  if (c.cotangent.empty()) return;  // the library returns zeros before this
  Problem<T> problem = c.problem;
  problem.out = results->out.data();
  problem.image_gradient = image ? results->image_gradient.data() : nullptr;
  problem.where_gradient = where ? results->where_gradient.data() : nullptr;
  const Threads workers(threads);
  const Kernels<T> kernels = STN_LEVEL::find_kernels(problem);
  Plan<T> plan(problem, kernels, workers.pool());
  plan.sample();
  if (image || where) plan.gradients();
}

// --- the same by plain loops ---------------------------------------------------------------------

struct Tap {
  int64_t index;
  double weight, slope;
};

double reflected(double x, double low, double span, double* sign) {
  const double period = span > 0 ? 2 * span : 1, rest = std::fmod(std::fabs(x - low), period);
  if (sign) *sign *= (x > low) == (rest < span) ? 1 : -1;
  return span - std::fabs(rest - span) + low;
}

double padded(const Problem<double>& p, double size, double x, double* scale) {
  if (p.padding == kZeros) return x;
  if (p.padding == kReflection)
    x = p.align_corners ? reflected(x, 0, size - 1, scale) : reflected(x, -0.5, size, scale);
  if (scale && !(x > 0 && x < size - 1)) *scale = 0;
  return x < 0 ? 0 : x > size - 1 ? size - 1 : x;
}

double keys(double d) {
  d = std::fabs(d);
  return d <= 1 ? (1.25 * d - 2.25) * d * d + 1 : d < 2 ? ((-0.75 * d + 3.75) * d - 6) * d + 3 : 0;
}

double keys_slope(double d) {
  const double sign = d < 0 ? -1 : 1;
  d = std::fabs(d);
  return sign * (d <= 1 ? (3.75 * d - 4.5) * d : d < 2 ? (-2.25 * d + 7.5) * d - 6 : 0);
}

// The taps along one axis at a normalized position; a NaN weight where the position is NaN.
std::vector<Tap> taps_at(const Problem<double>& p, int axis, double g, double* scale) {
  const double size = static_cast<double>(p.size[axis]);
  double x = p.align_corners ? (g + 1) / 2 * (size - 1) : ((g + 1) * size - 1) / 2;
  *scale = (p.align_corners ? size - 1 : size) / 2;
  if (p.mode != kCubic) x = padded(p, size, x, scale);
  if (p.mode == kCubic && p.padding != kReflection) {
    if (!(x > -3 && x < size + 2)) *scale = 0;
    x = x < -3 ? -3 : x > size + 2 ? size + 2 : x;
  }
  if (p.padding == kZeros) x = x < -9 ? -9 : x > size + 9 ? size + 9 : x;  // infinite ones too
  if (std::isnan(x - std::floor(x))) return {{-1, kNan, 0}};
  const double low = p.mode == kNearest ? std::nearbyint(x) : std::floor(x), t = x - low;
  std::vector<Tap> taps;
  const int first = p.mode == kCubic ? -1 : 0, last = p.mode == kNearest ? 0 : p.mode + first;
  for (int k = first; k <= last + (p.mode == kCubic ? 1 : 0); ++k) {
    const double at = p.mode == kCubic ? padded(p, size, low + k, nullptr) : low + k;
    const bool inside = at >= 0 && at <= size - 1;
    const double linear = k ? t : 1 - t, slope = k ? 1 : -1;
    const Tap tap = p.mode == kCubic    ? Tap{0, keys(t - k), keys_slope(t - k)}
                    : p.mode == kLinear ? Tap{0, linear, slope}
                                        : Tap{0, 1, 0};
    taps.push_back({inside ? static_cast<int64_t>(at) : -1, tap.weight, tap.slope});
  }
  return taps;
}

void compute_plainly(const Case<double>& c, Results<double>* results) {
  const Problem<double>& p = c.problem;
  std::vector<double> out(results->out.size());
  for (int64_t entry = 0; entry < c.entries; ++entry) {
    // Every entry's place in `out` once: as if each where served one entry.
    Batch each = p.batch;
    const Entry at = locate(each, each.size, entry, 0);
    const double* image = c.image.data() + at.image * p.pixels * p.channels;
    const double* where = c.where.data() + at.where * p.where_size();
    double* image_gradient = results->image_gradient.data() + at.image * p.pixels * p.channels;
    double* where_gradient = results->where_gradient.data() + at.where * p.where_size();
    for (int64_t i = 0; i < p.samples; ++i) {
      const int64_t place = (at.out * p.samples + i) * p.channels;
      const int64_t j[3] = {i % p.out_size[0], i / p.out_size[0] % p.out_size[1],
                            i / (p.out_size[0] * p.out_size[1])};
      double scale[3] = {}, gradient[3] = {}, start = 0;
      std::vector<Tap> taps[3] = {{}, {}, {{0, 1, 0}}};
      for (int axis = 0; axis < p.dims; ++axis) {
        double g = p.theta ? where[axis * (p.dims + 1) + p.dims] : where[i * p.dims + axis];
        for (int column = p.dims - 1; p.theta && column >= 0; --column)
          g += where[axis * (p.dims + 1) + column] * p.base[column][j[column]];
        taps[axis] = taps_at(p, axis, g, &scale[axis]);
        start += 0 * taps[axis][0].weight;
      }
      for (int64_t ch = 0; ch < p.channels; ++ch) results->out[place + ch] = start;
      for (const Tap& z : taps[2])
        for (const Tap& y : taps[1])
          for (const Tap& x : taps[0]) {
            if (x.index < 0 || y.index < 0 || z.index < 0) continue;
            const int64_t pixel = (z.index * p.size[1] + y.index) * p.size[0] + x.index;
            for (int64_t ch = 0; ch < p.channels; ++ch) {
              const double value = image[pixel * p.channels + ch], ct = c.cotangent[place + ch];
              results->out[place + ch] += x.weight * y.weight * z.weight * value;
              image_gradient[pixel * p.channels + ch] += x.weight * y.weight * z.weight * ct;
              gradient[0] += x.slope * y.weight * z.weight * (value * ct);
              gradient[1] += x.weight * y.slope * z.weight * (value * ct);
              gradient[2] += x.weight * y.weight * z.slope * (value * ct);
            }
          }
      for (int axis = 0; axis < p.dims; ++axis) {
        const double g = scale[axis] != 0 && p.mode != kNearest ? gradient[axis] * scale[axis] : 0;
        if (!p.theta) where_gradient[i * p.dims + axis] += g;
        for (int column = 0; p.theta && column <= p.dims; ++column)
          where_gradient[axis * (p.dims + 1) + column] +=
              g * (column < p.dims ? p.base[column][j[column]] : 1);
      }
    }
  }
}

// --- comparisons ---------------------------------------------------------------------------------

template <class T>
[[noreturn]] void fail(const char* what, const Case<T>& c, size_t at, double found, double expected) {
  const Problem<T>& p = c.problem;
  std::printf("case %lld: %s[%zu] is %.17g, expected %.17g\n", static_cast<long long>(c.number), what,
              at, found, expected);
  std::printf("dimensions %d, theta %d, mode %d, padding %d, align_corners %d, channels %d\n", p.dims,
              p.theta, p.mode, p.padding, p.align_corners, static_cast<int>(p.channels));
  for (int axis = 0; axis < p.dims; ++axis)
    std::printf("axis %d: image %d, output %d\n", axis, static_cast<int>(p.size[axis]),
                static_cast<int>(p.out_size[axis]));
  std::exit(1);
}

template <class T>
void same_bits(const char* what, const Case<T>& c, const std::vector<T>& a, const std::vector<T>& b) {
  for (size_t i = 0; i < a.size(); ++i)
    if (std::memcmp(&a[i], &b[i], sizeof(T)) != 0) fail(what, c, i, a[i], b[i]);
}

void close(const char* what, const Case<double>& c, const std::vector<double>& found,
           const std::vector<double>& expected) {
  double largest = 1;
  for (const double x : expected) largest = std::fmax(largest, std::isfinite(x) ? std::fabs(x) : 0);
  for (size_t i = 0; i < found.size(); ++i) {
    const double a = found[i], b = expected[i];
    const bool equal = std::isfinite(b) ? std::fabs(a - b) <= 1e-11 * largest
                                        : std::isnan(b) ? std::isnan(a) : a == b;
    if (!equal) fail(what, c, i, a, b);
  }
}

template <class T>
void run(Random& random, int64_t number) {
  const Case<T> c(random, number);
  Results<T> first(c);
  compute(c, 1, true, true, &first);
  for (const int threads : {2, 3, 7}) {
    Results<T> results(c);
    compute(c, threads, true, true, &results);
    same_bits("output on several threads", c, results.out, first.out);
    same_bits("image gradient on several threads", c, results.image_gradient, first.image_gradient);
    same_bits("where gradient on several threads", c, results.where_gradient, first.where_gradient);
  }
  if constexpr (sizeof(T) == 8) {
    Results<T> plain(c), apart(c);
    compute_plainly(c, &plain);
    compute(c, 3, true, false, &apart);
    compute(c, 3, false, true, &apart);
    close("output", c, first.out, plain.out);
    close("image gradient", c, first.image_gradient, plain.image_gradient);
    close("where gradient", c, first.where_gradient, plain.where_gradient);
    close("image gradient alone", c, apart.image_gradient, plain.image_gradient);
    close("where gradient alone", c, apart.where_gradient, plain.where_gradient);
  }
}

}  // namespace

int main(int, char** arguments) {
  const uint64_t seed = std::strtoull(arguments[1], nullptr, 10);
  const int64_t cases = std::strtoll(arguments[2], nullptr, 10);
  for (int64_t i = 0; i < cases; ++i) {
    Random random{std::mt19937_64(seed * 1'000'003 + static_cast<uint64_t>(i))};
    i % 2 ? run<float>(random, i) : run<double>(random, i);
  }
  std::printf("%lld cases, each on 1, 2, 3 and 7 threads with the same bits; %lld against float64\n",
              static_cast<long long>(cases), static_cast<long long>((cases + 1) / 2));
}

// Random cases for the native convolutions and pooling, without JAX: each is computed on 1, 2, 3 and
// 7 threads, whose results must have the same bits, and compared with plain loops in float64. Arrays
// are exactly as large as they must be, so that AddressSanitizer sees what reads past them.
//
//   layers_harness SEED CASES     prints one line: how many cases ran
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <random>
#include <thread>
#include <vector>

#include "convolution_plan.h"
#include "pooling.h"

namespace stn::STN_LEVEL {
ConvolutionKernels find_convolution_kernels();
PoolingKernels find_pooling_kernels();
}  // namespace stn::STN_LEVEL

namespace {

using namespace stn;
using Floats = std::vector<float>;
using Doubles = std::vector<double>;

struct Random {
  std::mt19937_64 engine;
  int64_t below(int64_t n) { return static_cast<int64_t>(engine() % static_cast<uint64_t>(n)); }
  Floats normal(int64_t count) {
    std::normal_distribution<float> normal;
    Floats values(count);
    for (float& value : values) value = normal(engine);
    return values;
  }
};

// Runs what is scheduled on threads of its own, and waits for them at the end.
class Threads {
 public:
  explicit Threads(int64_t count) : count_(count) {}
  ~Threads() {
    for (std::thread& thread : threads_) thread.join();
  }
  Pool pool() {
    return {count_, [this](std::function<void()> task) { threads_.emplace_back(std::move(task)); }};
  }

 private:
  int64_t count_;
  std::vector<std::thread> threads_;
};

void require(bool holds, const char* what, int64_t number) {
  if (holds) return;
  std::printf("case %lld: %s\n", static_cast<long long>(number), what);
  std::exit(1);
}

// The result of work(pool, result), the same for every number of threads.
template <class F>
Floats run(int64_t size, int64_t number, const F& work) {
  Floats first;
  for (const int64_t count : {1, 2, 3, 7}) {
    Floats result(size, std::numeric_limits<float>::quiet_NaN());
    {
      Threads threads(count);
      work(threads.pool(), result.data());
    }
    if (count == 1) first = result;
    require(size == 0 || std::memcmp(first.data(), result.data(), size * sizeof(float)) == 0,
            "other bits with more threads", number);
  }
  return first;
}

void compare(const Floats& found, const Doubles& expected, const char* what, int64_t number) {
  double largest = 0;
  for (const double value : expected) largest = std::max(largest, std::abs(value));
  for (size_t k = 0; k < found.size(); ++k)
    require(std::abs(found[k] - expected[k]) <= 2e-6 * largest, what, number);
}

void convolution(Random& random, int64_t number) {
  Convolution c{};
  c.batch = random.below(5) * (random.below(10) ? 1 : 50);
  c.kernel_height = 1 + random.below(6), c.kernel_width = 1 + random.below(6);
  c.out_height = 1 + random.below(12), c.out_width = 1 + random.below(12);
  c.height = c.out_height + c.kernel_height - 1, c.width = c.out_width + c.kernel_width - 1;
  const int64_t channels[] = {0, 1, 1, 2, 3, 5, 8, 16, 20, 33};
  const int64_t features[] = {0, 1, 3, 7, 8, 9, 16, 20, 24, 41, 64};
  c.channels = channels[random.below(10)], c.features = features[random.below(11)];
  c.taps = c.kernel_height * c.kernel_width * c.channels;
  c.pixels = c.batch * c.out_height * c.out_width;
  const Floats input = random.normal(c.batch * c.height * c.width * c.channels);
  const Floats kernel = random.normal(c.taps * c.features);
  const Floats output = random.normal(c.pixels * c.features);

  Doubles to_output(output.size()), to_input(input.size()), to_kernel(kernel.size());
  for (int64_t p = 0; p < c.pixels; ++p)
    for (int64_t tap = 0; tap < c.taps; ++tap) {
      const int64_t x = p % c.out_width, y = p / c.out_width % c.out_height;
      const int64_t image = p / c.out_width / c.out_height, channel = tap % c.channels;
      const int64_t i = tap / c.channels / c.kernel_width, j = tap / c.channels % c.kernel_width;
      const int64_t at = ((image * c.height + y + i) * c.width + x + j) * c.channels + channel;
      for (int64_t f = 0; f < c.features; ++f) {
        const double o = output[p * c.features + f], k = kernel[tap * c.features + f];
        to_output[p * c.features + f] += input[at] * k;
        to_input[at] += o * k;
        to_kernel[tap * c.features + f] += o * input[at];
      }
    }
  const ConvolutionKernels kernels = STN_LEVEL::find_convolution_kernels();
  const auto plan = [&](const Pool& pool) { return ConvolutionPlan(c, kernels, pool); };
  compare(run(output.size(), number,
              [&](const Pool& pool, float* to) {
                plan(pool).output(input.data(), kernel.data(), to);
              }),
          to_output, "output", number);
  compare(run(input.size(), number,
              [&](const Pool& pool, float* to) {
                plan(pool).input_gradient(kernel.data(), output.data(), to);
              }),
          to_input, "gradient to the input", number);
  compare(run(kernel.size(), number,
              [&](const Pool& pool, float* to) {
                plan(pool).kernel_gradient(input.data(), output.data(), to);
              }),
          to_kernel, "gradient to the kernel", number);
}

void pooling(Random& random, int64_t number) {
  const int64_t size = 1 + random.below(4), channels[] = {0, 1, 3, 8, 13, 20, 64};
  Pooling p{1 + random.below(4), size + random.below(9), size + random.below(9),
            channels[random.below(7)], size, 0, 0};
  p.out_height = p.height / size, p.out_width = p.width / size;
  Floats x = random.normal(p.images * p.height * p.width * p.channels);
  for (float& value : x)
    value = random.below(20) ? std::round(value) : std::numeric_limits<float>::quiet_NaN();
  const Floats values = random.normal(x.size());
  const int64_t rows = p.images * p.out_height, pooled = rows * p.out_width * p.channels;
  const Floats cotangent = random.normal(pooled);
  Floats selected(pooled), put(x.size());
  for (int64_t k = 0; k < pooled; ++k) {
    const int64_t channel = k % p.channels, column = k / p.channels % p.out_width;
    const int64_t row = k / p.channels / p.out_width, y = row % p.out_height;
    int64_t best = -1;
    for (int64_t i = 0; i < size; ++i)
      for (int64_t j = 0; j < size; ++j) {
        const int64_t line = row / p.out_height * p.height + y * size + i;
        const int64_t at = (line * p.width + column * size + j) * p.channels + channel;
        if (best < 0 || !(std::isnan(x[best]) || x[best] >= x[at])) best = at;
      }
    selected[k] = values[best], put[best] = cotangent[k];
  }
  const PoolingKernels kernels = STN_LEVEL::find_pooling_kernels();
  const auto by_rows = [&](auto work, const Floats& from, int64_t result) {
    return run(result, number, [&](const Pool& pool, float* to) {
      parallel_for(pool, rows, 1, [&](int64_t row) {
        work(p, x.data(), from.data(), row, row + 1, to);
      });
    });
  };
  require(by_rows(kernels.select, values, pooled) == selected, "selection", number);
  require(by_rows(kernels.transpose, cotangent, x.size()) == put, "transpose", number);
}

}  // namespace

int main(int argc, char** argv) {
  Random random{std::mt19937_64(argc > 1 ? std::atoll(argv[1]) : 0)};
  const int64_t cases = argc > 2 ? std::atoll(argv[2]) : 1000;
  for (int64_t number = 0; number < cases; ++number)
    number % 2 ? pooling(random, number) : convolution(random, number);
  std::printf("%lld cases of convolution and pooling\n", static_cast<long long>(cases));
}

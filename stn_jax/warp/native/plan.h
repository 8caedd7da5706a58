// How a problem is divided into parts, and how their results are combined. Sums are divided
// depending on shapes alone, so that results are bitwise equal for any number of threads.
#ifndef STN_JAX_PLAN_H_
#define STN_JAX_PLAN_H_

#include <vector>

#include "parallel.h"
#include "problem.h"

namespace stn {

template <class T>
class Plan {
 public:
  Plan(const Problem<T>& problem, const Kernels<T>& kernels, const Pool& pool)
      : p_(problem), kernels_(kernels), pool_(pool) {
    // In processor cycles, roughly.
    const double taps = p_.mode == kNearest ? 1 : p_.mode == kCubic ? 16 : p_.dims == 2 ? 4 : 8;
    sample_cost_ = 8 + taps * static_cast<double>(p_.channels) / 4;
    const double block_cost = sample_cost_ * kBlock * static_cast<double>(p_.entries_per_where);
    part_samples_ = kBlock * std::max<int64_t>(1, static_cast<int64_t>(kPartCost / block_cost));
    parts_per_where_ = (p_.samples + part_samples_ - 1) / part_samples_;
  }

  void sample() {
    for_parts([&](const SamplePart& part, int64_t) { kernels_.sample(p_, part); });
  }

  // The gradients to the image and to where; null pointers are not requested.
  void gradients() {
    const bool image = p_.image_gradient != nullptr;
    bool where = p_.where_gradient != nullptr;
    if (where && p_.mode == kNearest) {
      std::fill_n(p_.where_gradient, p_.wheres * p_.where_size(), T(0));
      where = false;
    }
    if (image && where && p_.entries_per_where == 1 && p_.images >= kManyImages)
      return both_gradients();
    if (where) where_gradient();
    if (image) image_gradient();
  }

 private:
  static constexpr double kPartCost = 50'000;  // the least work worth waking a thread for
  static constexpr int64_t kManyImages = 16;   // enough to give each thread whole images

  int64_t grain(double cost) const {
    return std::max<int64_t>(1, static_cast<int64_t>(kPartCost / cost));
  }

  template <class F>
  void for_parts(const F& work) {
    const double cost = sample_cost_ * static_cast<double>(p_.entries_per_where) *
                        static_cast<double>(std::min(part_samples_, p_.samples));
    parallel_for(pool_, p_.wheres * parts_per_where_, grain(cost), [&](int64_t i) {
      const int64_t first = i % parts_per_where_ * part_samples_;
      work({i / parts_per_where_, first, std::min(first + part_samples_, p_.samples)}, i);
    });
  }

  void where_gradient() {
    if (!p_.theta || parts_per_where_ == 1) {
      for_parts([&](const SamplePart& part, int64_t) {
        double sums[kMaxTheta] = {};
        kernels_.where_gradient(p_, part, sums);
        if (p_.theta) store_theta(part.where, sums);
      });
      return;
    }
    std::vector<double> sums(p_.wheres * parts_per_where_ * kMaxTheta);
    for_parts([&](const SamplePart& part, int64_t i) {
      kernels_.where_gradient(p_, part, &sums[i * kMaxTheta]);
    });
    for (int64_t where = 0; where < p_.wheres; ++where) {
      double* total = &sums[where * parts_per_where_ * kMaxTheta];
      for (int64_t part = 1; part < parts_per_where_; ++part)
        for (int k = 0; k < kMaxTheta; ++k) total[k] += total[part * kMaxTheta + k];
      store_theta(where, total);
    }
  }

  void store_theta(int64_t where, const double* sums) {
    const int64_t size = p_.where_size();
    for (int64_t k = 0; k < size; ++k)
      p_.where_gradient[where * size + k] = static_cast<T>(sums[k]);
  }

  // Each part owns some rows and channels of an image and adds to each pixel in the order of the
  // samples, so here the division may depend on the number of threads.
  void image_gradient() {
    const double image_cost =
        sample_cost_ * static_cast<double>(p_.samples * p_.entries_per_image);
    const int64_t wanted = image_cost * static_cast<double>(p_.images) < 2 * kPartCost
                               ? 1
                               : (2 * pool_.threads + p_.images - 1) / p_.images;
    const int64_t width = std::max<int64_t>(kChannels, (p_.channels + wanted - 1) / wanted);
    const int64_t channels = (width + kChannels - 1) / kChannels * kChannels;
    const int64_t by_channels = (p_.channels + channels - 1) / channels;
    const int64_t rows =
        std::max<int64_t>(kRows, p_.rows() * by_channels / std::max(wanted, by_channels));
    const int64_t strips = (p_.rows() + rows - 1) / rows;
    const int64_t parts = by_channels * strips;
    parallel_for(pool_, p_.images * parts, grain(image_cost / parts), [&](int64_t i) {
      const int64_t first_channel = i % by_channels * channels;
      const int64_t first_row = i / by_channels % strips * rows;
      kernels_.image_gradient(
          p_, {i / parts, first_row, std::min(first_row + rows, p_.rows()), first_channel,
               std::min(first_channel + channels, p_.channels)});
    });
  }
  static constexpr int64_t kChannels = 64 / sizeof(T);  // one cache line
  static constexpr int64_t kRows = 4;

  void both_gradients() {
    const double cost =
        2 * sample_cost_ * static_cast<double>(p_.samples * p_.entries_per_image);
    parallel_for(pool_, p_.images, grain(cost), [&](int64_t image) {
      std::vector<double> sums(p_.entries_per_image * p_.dims * (p_.dims + 1));
      kernels_.both_gradients(p_, image, sums.data());
      for (int64_t index = 0; p_.theta && index < p_.entries_per_image; ++index)
        store_theta(locate(p_.batch, p_.batch.image, image, index).where,
                    &sums[index * p_.dims * (p_.dims + 1)]);
    });
  }

  const Problem<T>& p_;
  const Kernels<T>& kernels_;
  const Pool& pool_;
  double sample_cost_;
  int64_t part_samples_, parts_per_where_;
};

}  // namespace stn

#endif  // STN_JAX_PLAN_H_

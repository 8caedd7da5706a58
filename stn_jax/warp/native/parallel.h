// Parallel loops on a pool of threads.
#ifndef STN_JAX_PARALLEL_H_
#define STN_JAX_PARALLEL_H_

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>

namespace stn {

struct Pool {
  int64_t threads;  // number of threads that run scheduled tasks
  std::function<void(std::function<void()>)> schedule;
};

// Calls work(i) for i in [0, items), on the caller's thread and on the pool's, which claim `grain`
// items at a time from a counter. The caller only waits for claimed items, never for a thread of
// the pool to start, so a pool whose threads are all busy or waiting causes no delay.
inline void parallel_for(const Pool& pool, int64_t items, int64_t grain,
                         const std::function<void(int64_t)>& work) {
  struct Shared {
    std::atomic<int64_t> next{0};
    int64_t done = 0;  // guarded by mutex
    std::mutex mutex;
    std::condition_variable all_done;
  };
  const int64_t claims = (items + grain - 1) / grain;
  const auto shared = std::make_shared<Shared>();
  // Threads that start too late may outlive `work`, but then they find nothing left to claim.
  const auto run = [shared, items, grain, claims, &work] {
    int64_t finished = 0;
    for (int64_t claim; (claim = shared->next.fetch_add(1)) < claims; ++finished)
      for (int64_t i = claim * grain; i < std::min(items, (claim + 1) * grain); ++i) work(i);
    if (finished == 0) return;
    const std::lock_guard<std::mutex> lock(shared->mutex);
    shared->done += finished;
    if (shared->done == claims) shared->all_done.notify_one();
  };
  const int64_t helpers = std::min(pool.threads, claims) - 1;
  for (int64_t i = 0; i < helpers; ++i) pool.schedule(run);
  run();
  std::unique_lock<std::mutex> lock(shared->mutex);
  shared->all_done.wait(lock, [&] { return shared->done == claims; });
}

}  // namespace stn

#endif  // STN_JAX_PARALLEL_H_

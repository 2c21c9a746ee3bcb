#include "server/session/device_call.h"

#include <chrono>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "base/fail_point.h"
#include "base/mutex.h"

namespace mnemosyne::server {
namespace {

constexpr std::chrono::milliseconds kRetryDelay(5);

// What a call waits for.
struct Answer {
  Mutex mutex;
  bool done ABSL_GUARDED_BY(mutex) = false;
  absl::Status status ABSL_GUARDED_BY(mutex);
};

}  // namespace

absl::Status CallDevice(StepExecutor& executor,
                        const std::function<absl::Status(StepExecutor::Device&)>& task) {
  Answer answer;
  FAIL_POINT("device.call");
  while (true) {
    const absl::Status submitted =
        executor.Submit(/*tenant=*/{}, [&](StepExecutor::Device& device) {
          absl::Status status = task(device);
          MutexLock lock(&answer.mutex);
          answer.status = std::move(status);
          answer.done = true;
        });
    if (submitted.ok()) break;
    if (submitted.code() != absl::StatusCode::kResourceExhausted) return submitted;
    std::this_thread::sleep_for(kRetryDelay);
  }
  MutexLock lock(&answer.mutex);
  lock.Await([&]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return answer.done; });
  return answer.status;
}

}  // namespace mnemosyne::server

#include "server/rpc/stream_registry.h"

#include <chrono>
#include <utility>

#include "base/error.h"
#include "server/session/shutting_down.h"

namespace mnemosyne::server {
namespace {

constexpr char kRetryAfterMs[] = "1000";

}  // namespace

StreamRegistry::StreamRegistry(size_t stream_count_max)
    : stream_count_max_(stream_count_max), ticker_([this] { TickUntilStopped(); }) {}

StreamRegistry::~StreamRegistry() {
  {
    MutexLock lock(&mutex_);
    stopped_ = true;
  }
  ticker_.join();
}

absl::Status StreamRegistry::Add(const std::shared_ptr<Watched>& stream) {
  MutexLock lock(&mutex_);
  if (draining_) {
    return ShuttingDown("open the stream again a little later");
  }
  std::erase_if(streams_, [](const auto& known) { return known.expired(); });
  if (streams_.size() >= stream_count_max_) {
    const absl::Status status =
        WithReason(ResourceExhausted("there are {} streams already, which is the most; close "
                                     "some, or raise --streams-max",
                                     streams_.size()),
                   "TOO_MANY_STREAMS");
    return WithMetadata(status, "retry_after_ms", kRetryAfterMs);
  }
  streams_.push_back(stream);
  return absl::OkStatus();
}

void StreamRegistry::Drain() {
  {
    MutexLock lock(&mutex_);
    draining_ = true;
  }
  for (const auto& stream : Alive()) stream->OnDrain();
}

size_t StreamRegistry::count() const {
  MutexLock lock(&mutex_);
  size_t count = 0;
  for (const auto& stream : streams_) count += stream.expired() ? 0 : 1;
  return count;
}

std::vector<std::shared_ptr<Watched>> StreamRegistry::Alive() {
  MutexLock lock(&mutex_);
  std::vector<std::shared_ptr<Watched>> alive;
  for (const auto& stream : streams_) {
    if (auto watched = stream.lock()) alive.push_back(std::move(watched));
  }
  return alive;
}

void StreamRegistry::TickUntilStopped() {
  while (true) {
    {
      MutexLock lock(&mutex_);
      const auto stopped = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return stopped_; };
      if (lock.AwaitFor(std::chrono::seconds(1), stopped)) return;
    }
    for (const auto& stream : Alive()) stream->OnTick();
  }
}

}  // namespace mnemosyne::server

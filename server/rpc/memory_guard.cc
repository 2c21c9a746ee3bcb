#include "server/rpc/memory_guard.h"

#include <fcntl.h>
#include <malloc.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <cinttypes>
#include <cstdio>
#include <utility>

#include "server/telemetry/log.h"

namespace mnemosyne::server {
namespace {

// A fast client sends some tens of megabytes meanwhile.
constexpr std::chrono::milliseconds kInterval(20);

// Giving memory back takes long where there is much of it.
constexpr std::chrono::milliseconds kTrimInterval(200);

// What was ended needs a while to let go: calls that it made are still in gRPC's queues.
constexpr std::chrono::seconds kClosedFor(1);

// Where memory does not fall in this time, it is not of what was ended.
constexpr std::chrono::seconds kClosedLongest(10);

// Clients must not fill the log.
constexpr std::chrono::seconds kLogInterval(10);

}  // namespace

ProcessMemory ReadProcessMemory(bool in_use) {
  // Open once: whoever uses up all files must not blind the guard.
  static const int file = ::open("/proc/self/statm", O_RDONLY | O_CLOEXEC);
  ProcessMemory memory;
  std::array<char, 128> text{};  // Pages: of the process, resident, and more.
  int64_t resident = 0;
  if (::pread(file, text.data(), text.size() - 1, 0) > 0 &&
      std::sscanf(text.data(), "%*d %" SCNd64, &resident) == 1) {
    memory.resident = resident * int64_t{::sysconf(_SC_PAGE_SIZE)};
  }
  memory.in_use = memory.resident;
  if (in_use) {
    const struct mallinfo2 heap = ::mallinfo2();
    memory.in_use -= static_cast<int64_t>(heap.fordblks);
  }
  return memory;
}

MemoryGuard::MemoryGuard(std::function<int64_t()> bytes_max,
                         std::function<ProcessMemory(bool)> read, ConnectionGuard& connections,
                         const Clock& clock)
    : bytes_max_(std::move(bytes_max)),
      read_(std::move(read)),
      connections_(connections),
      clock_(clock),
      logged_(clock.MonotonicNow() - kLogInterval),
      thread_([this] { LookUntilStopped(); }) {}

MemoryGuard::~MemoryGuard() {
  {
    MutexLock lock(&mutex_);
    stopped_ = true;
  }
  thread_.join();
}

void MemoryGuard::Look() {
  const int64_t bytes_max = bytes_max_();
  const Clock::Monotonic now = clock_.MonotonicNow();
  if (read_(/*in_use=*/false).resident <= bytes_max) {
    if (closed_ && now - ended_ >= kClosedFor) Open();
    return;
  }
  const bool too_much = read_(/*in_use=*/true).in_use > bytes_max;
  const bool ended = too_much && connections_.EndHeaviest();
  if (ended) {
    ended_ = now;
    if (!std::exchange(closed_, true)) connections_.Close(true);
  } else if (closed_ && now - ended_ >= (too_much ? kClosedLongest : kClosedFor)) {
    Open();
  }
  if (too_much && now - logged_ >= kLogInterval) {
    logged_ = now;
    Log(spdlog::level::warn,
        ended ? "too much memory: the heaviest connections are ended"
              : "too much memory, and no connection is to blame",
        {{"bytes_max", bytes_max}, {"connections", connections_.count()}});
  }
  // What the allocator keeps is given back, if that is enough.
  if (!too_much || now - trimmed_ >= kTrimInterval) {
    ::malloc_trim(0);
    trimmed_ = clock_.MonotonicNow();
  }
}

void MemoryGuard::Open() {
  closed_ = false;
  connections_.Close(false);
}

void MemoryGuard::LookUntilStopped() {
  while (true) {
    {
      MutexLock lock(&mutex_);
      const auto stopped = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return stopped_; };
      if (lock.AwaitFor(kInterval, stopped)) return;
    }
    Look();
  }
}

}  // namespace mnemosyne::server

// The time, as a seam: the machine's clock, or one that a test moves.
#pragma once

#include <atomic>
#include <chrono>

namespace mnemosyne {

// Tells the time. Thread-safe.
class Clock {
 public:
  using Time = std::chrono::system_clock::time_point;
  using Monotonic = std::chrono::steady_clock::time_point;

  virtual ~Clock() = default;

  // Wall-clock time, for people; may jump.
  virtual Time Now() const = 0;

  // Time that never goes back, for measuring and deadlines.
  virtual Monotonic MonotonicNow() const = 0;

  // The machine's clock; lives for ever.
  static const Clock& Real();
};

// A clock that stands still until it is moved. Thread-safe.
class FakeClock final : public Clock {
 public:
  Time Now() const override { return Time(std::chrono::seconds(1'700'000'000)) + elapsed_.load(); }
  Monotonic MonotonicNow() const override { return Monotonic() + elapsed_.load(); }
  void Advance(std::chrono::nanoseconds by) { elapsed_.store(elapsed_.load() + by); }

 private:
  std::atomic<std::chrono::nanoseconds> elapsed_{std::chrono::nanoseconds(0)};
};

// Seconds between two times, as a number.
inline double Seconds(std::chrono::steady_clock::duration duration) {
  return std::chrono::duration<double>(duration).count();
}

}  // namespace mnemosyne

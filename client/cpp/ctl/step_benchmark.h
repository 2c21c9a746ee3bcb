// Steps sessions of a given size as fast as they go, and measures.
#pragma once

#include <atomic>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "mnemosyne/client.h"

namespace mnemosyne::ctl {

struct StepBenchmarkOptions {
  int64_t elements = 1'000'000;  // Of a session, over all its tensors.
  int64_t tensors = 100;
  std::string optimizer = "adamw";
  DataType encoding = DataType::kFloat32;  // Of gradients and updates.
  int64_t streams = 1;                     // Sessions stepped at once, a thread each.
  int64_t warmup_steps = 3;                // Of each session, not measured.
  int64_t steps = 0;                       // Of each session; 0 for as many as `seconds` allow.
  double seconds = 5;                      // Ends the run also where `steps` is set, if above 0.
};

// Times of one kind, in seconds.
struct Latency {
  double mean = 0;
  double p50 = 0;
  double p90 = 0;
  double p99 = 0;
  double maximum = 0;
};

struct StepBenchmarkResult {
  int64_t steps = 0;                  // Of all sessions together.
  double seconds = 0;                 // From the first measured step to the end of the last.
  double steps_per_second = 0;        // Of all sessions together.
  double gradient_gb_per_second = 0;  // In 10^9 bytes.
  double update_gb_per_second = 0;
  Latency step;             // As the client sees it.
  Latency receive;          // In the daemon: from a step's first message to its last.
  Latency queue;            // In the daemon: waiting for the device.
  Latency compute;          // In the daemon.
  int64_t state_bytes = 0;  // Of one session.
};

// Percentiles of `seconds`, which it sorts.
Latency Summarize(std::vector<double> seconds);

// Makes the sessions, steps them, and deletes them whatever happens. Ends early, with what was
// measured until then, when `stop` becomes true.
absl::StatusOr<StepBenchmarkResult> RunStepBenchmark(Client& client,
                                                     const StepBenchmarkOptions& options,
                                                     const std::atomic<bool>& stop);

}  // namespace mnemosyne::ctl

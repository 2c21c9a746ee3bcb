// The gradients of steps that a crash of the daemon could still lose.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "mnemosyne/optimize_stream.h"

namespace mnemosyne {

// Keeps copies of the last steps within a bound, in memory or in a folder; the oldest leave first.
// Not thread-safe.
class ReplayBuffer {
 public:
  // A step as it was sent. Its gradients are views of this object or of the buffer, which must not
  // change meanwhile.
  struct Step {
    std::vector<std::span<const float>> gradients;  // [parameters]; empty for absent ones.
    StepOptions options;
    std::vector<float> values;  // What was read from a file.
  };

  // Holds `bytes_max` bytes of gradients; 0 keeps none. They lie in a folder of their own in
  // `folder`, which goes with this object; an empty one is memory.
  ReplayBuffer(size_t bytes_max, std::filesystem::path folder);
  ~ReplayBuffer();
  ReplayBuffer(const ReplayBuffer&) = delete;
  ReplayBuffer& operator=(const ReplayBuffer&) = delete;

  // Copies a step, in place of one of the same number. One that is larger than the bound takes all
  // others with it, and so does one that cannot be written: Unavailable says why.
  absl::Status Add(int64_t step, Tensors gradients, const StepOptions& options);

  // Whether all steps from `first` to `last` are here.
  bool Has(int64_t first, int64_t last) const;

  // A step that is here. DataLoss if its file cannot be read.
  absl::StatusOr<Step> Get(int64_t step) const;

  // Lets go of all steps up to `durable_step`.
  void Trim(int64_t durable_step);

 private:
  struct Kept {
    std::vector<size_t> sizes;  // [parameters] Elements; 0 for absent ones.
    std::vector<float> values;  // All gradients one behind the other; empty if they are in a file.
    StepOptions options;
    size_t byte_count = 0;
  };
  using Steps = std::map<int64_t, Kept>;

  std::filesystem::path FileOf(int64_t step) const;
  absl::Status MakeFolder();
  absl::Status WriteFile(int64_t step, const std::vector<std::span<const float>>& present);
  Steps::iterator Remove(Steps::iterator at);
  void Clear();

  const size_t bytes_max_;
  const std::filesystem::path parent_;
  std::filesystem::path folder_;  // Made for the first step.
  size_t byte_count_ = 0;
  Steps steps_;
};

}  // namespace mnemosyne

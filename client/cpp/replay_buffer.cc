#include "client/cpp/replay_buffer.h"

#include <stdlib.h>

#include <fstream>
#include <string>
#include <system_error>
#include <utility>

#include "base/error.h"
#include "base/status_macros.h"
#include "client/cpp/step_writer.h"

namespace mnemosyne {

namespace fs = std::filesystem;

ReplayBuffer::ReplayBuffer(size_t bytes_max, fs::path folder)
    : bytes_max_(bytes_max), parent_(std::move(folder)) {}

ReplayBuffer::~ReplayBuffer() {
  std::error_code ignored;
  if (!folder_.empty()) fs::remove_all(folder_, ignored);
}

absl::Status ReplayBuffer::Add(int64_t step, Tensors gradients, const StepOptions& options) {
  const std::vector<bool> absent = AbsentParameters(gradients.size(), options);
  Kept kept;
  kept.options = options;
  kept.options.step = step;
  std::vector<std::span<const float>> present;
  for (size_t i = 0; i < gradients.size(); ++i) {
    kept.sizes.push_back(absent[i] ? 0 : gradients[i].size());
    if (absent[i]) continue;
    present.push_back(gradients[i]);
    kept.byte_count += gradients[i].size_bytes();
  }
  if (const auto same = steps_.find(step); same != steps_.end()) Remove(same);
  while (!steps_.empty() && byte_count_ + kept.byte_count > bytes_max_) Remove(steps_.begin());
  if (kept.byte_count > bytes_max_) return absl::OkStatus();
  if (parent_.empty()) {
    kept.values.reserve(kept.byte_count / sizeof(float));
    for (const auto& values : present) {
      kept.values.insert(kept.values.end(), values.begin(), values.end());
    }
  } else if (const absl::Status written = WriteFile(step, present); !written.ok()) {
    Clear();
    return written;
  }
  byte_count_ += kept.byte_count;
  steps_[step] = std::move(kept);
  return absl::OkStatus();
}

bool ReplayBuffer::Has(int64_t first, int64_t last) const {
  for (int64_t step = first; step <= last; ++step) {
    if (!steps_.contains(step)) return false;
  }
  return true;
}

absl::StatusOr<ReplayBuffer::Step> ReplayBuffer::Get(int64_t step) const {
  const Kept& kept = steps_.find(step)->second;
  Step found;
  found.options = kept.options;
  std::span<const float> rest = kept.values;
  if (!parent_.empty()) {
    found.values.resize(kept.byte_count / sizeof(float));
    std::ifstream file(FileOf(step), std::ios::binary);
    file.read(reinterpret_cast<char*>(found.values.data()),
              static_cast<std::streamsize>(kept.byte_count));
    if (!file || file.peek() != std::ifstream::traits_type::eof()) {
      return DataLoss("the kept gradients of step {} cannot be read", step);
    }
    rest = found.values;
  }
  for (const size_t size : kept.sizes) {
    found.gradients.push_back(rest.first(size));
    rest = rest.subspan(size);
  }
  return found;
}

void ReplayBuffer::Trim(int64_t durable_step) {
  while (!steps_.empty() && steps_.begin()->first <= durable_step) Remove(steps_.begin());
}

fs::path ReplayBuffer::FileOf(int64_t step) const { return folder_ / std::to_string(step); }

absl::Status ReplayBuffer::MakeFolder() {
  if (!folder_.empty()) return absl::OkStatus();
  std::string pattern = parent_ / "replay-XXXXXX";
  if (::mkdtemp(pattern.data()) == nullptr) {
    return Unavailable("no folder can be made in {}", parent_.string());
  }
  folder_ = pattern;
  return absl::OkStatus();
}

absl::Status ReplayBuffer::WriteFile(int64_t step,
                                     const std::vector<std::span<const float>>& present) {
  MNEMO_RETURN_IF_ERROR(MakeFolder());
  std::ofstream file(FileOf(step), std::ios::binary);
  for (const auto& values : present) {
    file.write(reinterpret_cast<const char*>(values.data()),
               static_cast<std::streamsize>(values.size_bytes()));
  }
  file.close();
  if (!file) return Unavailable("writing to {} failed; is the disk full?", folder_.string());
  return absl::OkStatus();
}

ReplayBuffer::Steps::iterator ReplayBuffer::Remove(Steps::iterator at) {
  byte_count_ -= at->second.byte_count;
  std::error_code ignored;
  if (!parent_.empty()) fs::remove(FileOf(at->first), ignored);
  return steps_.erase(at);
}

void ReplayBuffer::Clear() {
  for (auto at = steps_.begin(); at != steps_.end();) at = Remove(at);
}

}  // namespace mnemosyne

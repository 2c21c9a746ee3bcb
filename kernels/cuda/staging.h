// Telling a device of a step: many small tables in one copy, and memory that is kept from step to
// step.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/status_macros.h"
#include "kernels/backend.h"

namespace mnemosyne::kernels::cuda {

// Places in a piece of memory, one after the other, each aligned to 64 bytes.
class Places {
 public:
  template <typename T>
  size_t Take(size_t count) {
    const size_t start = end_;
    end_ += (count * sizeof(T) + kAlignment - 1) / kAlignment * kAlignment;
    return start;
  }
  size_t end() const { return end_; }
  void Clear() { end_ = 0; }

 private:
  static constexpr size_t kAlignment = 64;
  size_t end_ = 0;
};

// Memory on a device that grows and is kept. Thread-safety and errors: as Backend.
class Reserve {
 public:
  // At least `size` bytes; what was there is lost if there were fewer.
  absl::StatusOr<std::byte*> Get(Backend& backend, size_t size) {
    if (buffer_.size() < size) {
      MNEMO_RETURN_IF_ERROR(backend.Synchronize());
      buffer_ = Buffer();  // Free before asking for more.
      MNEMO_ASSIGN_OR_RETURN(buffer_, backend.Allocate(size));
    }
    return buffer_.data();
  }

 private:
  Buffer buffer_;
};

// Tables that go to the device in one copy, which nobody waits for; none if the device has the same
// from before.
class Staging {
 public:
  void Clear() { places_.Clear(); }

  // Copies `items`; returns their place in the copy.
  template <typename T>
  size_t Add(std::span<const T> items) {
    const size_t place = places_.Take<T>(items.size());
    if (bytes_.size() < places_.end()) bytes_.resize(2 * places_.end());
    if (!items.empty()) std::memcpy(bytes_.data() + place, items.data(), items.size_bytes());
    return place;
  }
  template <typename T>
  size_t Add(const std::vector<T>& items) {
    return Add(std::span<const T>(items));
  }

  // Copies all to the device; tables are then at At<T>(place), which nothing may write to.
  absl::Status Upload(Backend& backend) {
    const size_t size = places_.end();
    if (size == sent_ && (size == 0 || std::memcmp(pinned_.data(), bytes_.data(), size) == 0)) {
      return absl::OkStatus();
    }
    sent_ = 0;
    MNEMO_ASSIGN_OR_RETURN(device_, reserve_.Get(backend, size));
    if (sent_at_ == backend.wait_count()) MNEMO_RETURN_IF_ERROR(backend.Synchronize());
    if (pinned_.size() < size) {
      MNEMO_ASSIGN_OR_RETURN(pinned_, backend.AllocateHost(2 * size));
    }
    std::memcpy(pinned_.data(), bytes_.data(), size);
    MNEMO_RETURN_IF_ERROR(backend.UploadLater(pinned_.data(), device_, size));
    sent_at_ = backend.wait_count();
    sent_ = size;
    return absl::OkStatus();
  }
  template <typename T>
  const T* At(size_t place) const {
    return reinterpret_cast<const T*>(device_ + place);
  }

 private:
  Places places_;
  std::vector<std::byte> bytes_;
  Buffer pinned_;  // What was sent, and perhaps is still being sent.
  size_t sent_ = 0;
  std::optional<uint64_t> sent_at_;  // The backend's wait_count().
  Reserve reserve_;
  std::byte* device_ = nullptr;
};

// Numbers that come from the device, in memory where it copies fastest to.
class Landing {
 public:
  // Makes room for `size` bytes; what was fetched before is lost.
  absl::Status Prepare(Backend& backend, size_t size) {
    if (pinned_.size() >= size) return absl::OkStatus();
    pinned_ = Buffer();
    MNEMO_ASSIGN_OR_RETURN(pinned_, backend.AllocateHost(2 * size));
    return absl::OkStatus();
  }

  // Waits for all earlier calls; what was fetched before is lost.
  template <typename T>
  absl::StatusOr<std::span<const T>> Fetch(Backend& backend, const void* device, size_t count) {
    const size_t size = count * sizeof(T);
    MNEMO_RETURN_IF_ERROR(Prepare(backend, size));
    MNEMO_RETURN_IF_ERROR(
        backend.Download(static_cast<const std::byte*>(device), pinned_.data(), size));
    return std::span<const T>(pinned_.as<const T>(), count);
  }

 private:
  Buffer pinned_;
};

}  // namespace mnemosyne::kernels::cuda

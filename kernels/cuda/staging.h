// Telling a device of a step: many small tables in one copy, and memory that is kept from step to
// step.
#pragma once

#include <cstddef>
#include <cstring>
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

// Tables that go to the device in one copy.
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

  // Copies all to the device; tables are then at At<T>(place).
  absl::Status Upload(Backend& backend) {
    MNEMO_ASSIGN_OR_RETURN(device_, reserve_.Get(backend, places_.end()));
    return backend.Upload(bytes_.data(), device_, places_.end());
  }
  template <typename T>
  const T* At(size_t place) const {
    return reinterpret_cast<const T*>(device_ + place);
  }

 private:
  Places places_;
  std::vector<std::byte> bytes_;
  Reserve reserve_;
  std::byte* device_ = nullptr;
};

}  // namespace mnemosyne::kernels::cuda

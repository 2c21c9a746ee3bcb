// Memory on a device, owned and move-only.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <utility>

namespace mnemosyne::kernels {

// A run of bytes that a Backend allocated; freed with this object, which must not outlive its
// backend. Its data may lie on a device: only the backend may touch it there.
class Buffer {
 public:
  using Deleter = std::function<void(std::byte*)>;

  Buffer() = default;
  Buffer(std::byte* data, size_t size, Deleter deleter)
      : data_(data, std::move(deleter)), size_(size) {}

  std::byte* data() const { return data_.get(); }
  size_t size() const { return size_; }
  bool empty() const { return size_ == 0; }

  // The first byte as an element of `T`.
  template <typename T>
  T* as() const {
    return reinterpret_cast<T*>(data_.get());
  }

 private:
  std::unique_ptr<std::byte, Deleter> data_;
  size_t size_ = 0;
};

}  // namespace mnemosyne::kernels

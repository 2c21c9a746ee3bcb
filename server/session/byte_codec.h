// Values as bytes and back, little-endian, without gaps.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

namespace mnemosyne::server {

// Appends values.
class ByteWriter {
 public:
  template <typename T>
  requires std::is_arithmetic_v<T>
  void Put(T value) {
    const auto* raw = reinterpret_cast<const std::byte*>(&value);
    bytes_.insert(bytes_.end(), raw, raw + sizeof(T));
  }
  void Put(size_t value) { Put(static_cast<int64_t>(value)); }
  void Put(const std::string& text) {
    Put(text.size());
    const auto raw = std::as_bytes(std::span(text));
    bytes_.insert(bytes_.end(), raw.begin(), raw.end());
  }
  template <typename T>
  void Put(const std::optional<T>& value) {
    Put(static_cast<uint8_t>(value.has_value()));
    if (value) Put(*value);
  }
  template <typename T>
  void Put(const std::vector<T>& values) {
    Put(values.size());
    for (const T& value : values) Put(value);
  }
  void Put(const std::vector<bool>& values) {
    Put(values.size());
    for (const bool value : values) Put(static_cast<uint8_t>(value));
  }

  std::vector<std::byte> Take() { return std::move(bytes_); }

 private:
  std::vector<std::byte> bytes_;
};

// Takes values from the front. After a value that is not there, all are zero and ok() is false.
class ByteReader {
 public:
  explicit ByteReader(std::span<const std::byte> bytes) : bytes_(bytes) {}

  template <typename T>
  requires std::is_arithmetic_v<T>
  void Get(T& value) {
    value = T{};
    if (!Has(sizeof(T))) return;
    std::memcpy(&value, bytes_.data(), sizeof(T));
    bytes_ = bytes_.subspan(sizeof(T));
  }
  void Get(bool& value) {
    uint8_t byte = 0;
    Get(byte);
    value = byte != 0;
  }
  void Get(size_t& value) {
    int64_t wide = 0;
    Get(wide);
    value = static_cast<size_t>(wide);
  }
  void Get(std::string& text) {
    size_t size = 0;
    Get(size);
    if (!Has(size)) return;
    text.assign(reinterpret_cast<const char*>(bytes_.data()), size);
    bytes_ = bytes_.subspan(size);
  }
  template <typename T>
  void Get(std::optional<T>& value) {
    bool has = false;
    Get(has);
    value.reset();
    if (has) Get(value.emplace());
  }
  template <typename T>
  void Get(std::vector<T>& values) {
    size_t size = 0;
    Get(size);
    values.clear();
    // Each element has at least a byte.
    if (!Has(size)) return;
    values.reserve(size);
    for (size_t i = 0; i < size && ok_; ++i) {
      T value{};
      Get(value);
      values.push_back(value);
    }
  }

  bool ok() const { return ok_; }
  std::span<const std::byte> rest() const { return bytes_; }

 private:
  bool Has(size_t size) {
    ok_ = ok_ && size <= bytes_.size();
    return ok_;
  }

  std::span<const std::byte> bytes_;
  bool ok_ = true;
};

}  // namespace mnemosyne::server

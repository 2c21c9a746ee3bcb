#include "kernels/cpu/apart_backend.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <utility>

#include "base/error.h"
#include "base/status_macros.h"

namespace mnemosyne::kernels::cpu {
namespace {

constexpr size_t kMebibyte = size_t{1} << 20;
constexpr int kFailingMebibytes = 64;
constexpr int kFreed = 0xA5;  // In a float32 a small negative number.

}  // namespace

absl::StatusOr<std::unique_ptr<Backend>> ApartBackend::Create(int mebibytes,
                                                              const CpuOptions& options) {
  if (mebibytes < 1) return InvalidArgument("wrong size: apart:{}, expected at least 1", mebibytes);
  MNEMO_ASSIGN_OR_RETURN(const Parts parts, FindParts(options));
  return std::unique_ptr<Backend>(new ApartBackend(parts, fmt::format("apart:{}", mebibytes),
                                                   mebibytes, std::numeric_limits<int64_t>::max()));
}

absl::StatusOr<std::unique_ptr<Backend>> ApartBackend::CreateFailing(int uploads,
                                                                     const CpuOptions& options) {
  MNEMO_ASSIGN_OR_RETURN(const Parts parts, FindParts(options));
  return std::unique_ptr<Backend>(new ApartBackend(
      parts, fmt::format("failing:{}", uploads), kFailingMebibytes, std::max<int64_t>(uploads, 1)));
}

ApartBackend::ApartBackend(const Parts& parts, std::string name, int mebibytes,
                           int64_t uploads_left)
    : CpuBackend(parts),
      name_(std::move(name)),
      size_(static_cast<size_t>(mebibytes) * kMebibyte),
      uploads_left_(uploads_left),
      used_(std::make_shared<std::atomic<size_t>>(0)) {}

absl::Status ApartBackend::Fault() const {
  return uploads_left_.load() > 0 ? absl::OkStatus() : Internal("device fault: it was to fail");
}

absl::Status ApartBackend::Upload(const std::byte* host, std::byte* device, size_t size) {
  if (uploads_left_.load() > 0) uploads_left_.fetch_sub(1);
  MNEMO_RETURN_IF_ERROR(Fault());
  return CpuBackend::Upload(host, device, size);
}

absl::Status ApartBackend::Download(const std::byte* device, std::byte* host, size_t size) {
  MNEMO_RETURN_IF_ERROR(Fault());
  return CpuBackend::Download(device, host, size);
}

absl::StatusOr<Buffer> ApartBackend::Allocate(size_t size) {
  MNEMO_RETURN_IF_ERROR(Fault());
  if (size == 0) return Buffer();
  if (used_->fetch_add(size) + size > size_) {
    used_->fetch_sub(size);
    return ResourceExhausted("out of memory: {} bytes", size);
  }
  auto memory = CpuBackend::Allocate(size);
  if (!memory.ok()) {
    used_->fetch_sub(size);
    return memory.status();
  }
  auto shared = std::make_shared<Buffer>(*std::move(memory));
  return Buffer(shared->data(), size, [shared, size, used = used_](std::byte* freed) {
    std::memset(freed, kFreed, size);
    used->fetch_sub(size);
  });
}

}  // namespace mnemosyne::kernels::cpu

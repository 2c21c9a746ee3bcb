#include "kernels/cpu/apart_backend.h"

#include <cstring>
#include <utility>

#include "base/error.h"
#include "base/status_macros.h"

namespace mnemosyne::kernels::cpu {
namespace {

constexpr size_t kMebibyte = size_t{1} << 20;
constexpr int kFreed = 0xA5;  // In a float32 a small negative number.

}  // namespace

absl::StatusOr<std::unique_ptr<Backend>> ApartBackend::Create(int mebibytes,
                                                              const CpuOptions& options) {
  if (mebibytes < 1) return InvalidArgument("wrong size: apart:{}, expected at least 1", mebibytes);
  MNEMO_ASSIGN_OR_RETURN(const Parts parts, FindParts(options));
  return std::unique_ptr<Backend>(new ApartBackend(parts, mebibytes));
}

ApartBackend::ApartBackend(const Parts& parts, int mebibytes)
    : CpuBackend(parts),
      name_(fmt::format("apart:{}", mebibytes)),
      size_(static_cast<size_t>(mebibytes) * kMebibyte),
      used_(std::make_shared<std::atomic<size_t>>(0)) {}

absl::StatusOr<Buffer> ApartBackend::Allocate(size_t size) {
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

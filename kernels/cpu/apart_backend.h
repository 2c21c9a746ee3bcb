// A device of the tests: the CPU, with a memory that passes for one of its own.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "kernels/cpu/cpu_backend.h"

namespace mnemosyne::kernels::cpu {

// Computes what CpuBackend computes, and is to the daemon what a GPU is: its Buffers are not host
// memory, and there is only so much of them. What is freed is overwritten, so that who uses it
// afterwards gets other numbers. One that is to fail does so at an upload, and from then on answers
// everything with Internal.
//
// Thread-safety and errors: as Backend; Allocate fails with ResourceExhausted beyond the bound.
class ApartBackend final : public CpuBackend {
 public:
  // A memory of `mebibytes`. Errors as CpuBackend, and InvalidArgument unless it has at least one.
  static absl::StatusOr<std::unique_ptr<Backend>> Create(int mebibytes, const CpuOptions& options);

  // `failing:<uploads>`: 64 MiB, and that upload, counted from 1, is the first that fails.
  static absl::StatusOr<std::unique_ptr<Backend>> CreateFailing(int uploads,
                                                                const CpuOptions& options);

  std::string_view name() const override { return name_; }
  bool host_accessible() const override { return false; }
  bool shares_launches() const override { return true; }
  std::optional<size_t> FreeMemory() const override { return size_ - used_->load(); }

  absl::StatusOr<Buffer> Allocate(size_t size) override;
  absl::StatusOr<Buffer> AllocateHost(size_t size) override { return CpuBackend::Allocate(size); }
  absl::Status Upload(const std::byte* host, std::byte* device, size_t size) override;
  absl::Status Download(const std::byte* device, std::byte* host, size_t size) override;
  absl::Status Synchronize() override { return Fault(); }
  absl::Status Fault() const override;

 private:
  ApartBackend(const Parts& parts, std::string name, int mebibytes, int64_t uploads_left);

  const std::string name_;
  const size_t size_;
  std::atomic<int64_t> uploads_left_;                // Until it fails.
  const std::shared_ptr<std::atomic<size_t>> used_;  // Bytes; shared with the Buffers.
};

}  // namespace mnemosyne::kernels::cpu

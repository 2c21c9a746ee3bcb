// A count of the places where memory of the caller is still in use.
#pragma once

#include <grpcpp/support/slice.h>

#include <cstddef>
#include <memory>
#include <span>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"

namespace mnemosyne {

// Lends memory to gRPC without copying it. Slices may be freed by any thread of gRPC, some time
// after the write that sent them; the memory must stay until then.
//
// Thread-safety: thread-safe.
// Lifetime: waits for its slices when it is destroyed.
class Lease {
 public:
  Lease() = default;
  ~Lease() { WaitUntilFree(); }
  Lease(const Lease&) = delete;
  Lease& operator=(const Lease&) = delete;

  // A slice over `bytes`, counted until gRPC drops it.
  grpc::Slice Lend(std::span<const std::byte> bytes);

  // Whether no slice is left.
  bool free() const;

  // Blocks until no slice is left.
  void WaitUntilFree() const;

 private:
  static void Return(void* lease);

  mutable absl::Mutex mutex_;
  size_t lent_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace mnemosyne

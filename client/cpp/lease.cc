#include "client/cpp/lease.h"

namespace mnemosyne {

grpc::Slice Lease::Lend(std::span<const std::byte> bytes) {
  {
    const absl::MutexLock lock(&mutex_);
    ++lent_;
  }
  // gRPC takes a pointer to what is not const and never writes to it.
  return grpc::Slice(const_cast<std::byte*>(bytes.data()), bytes.size(), &Lease::Return, this);
}

bool Lease::free() const {
  const absl::MutexLock lock(&mutex_);
  return lent_ == 0;
}

void Lease::WaitUntilFree() const {
  const absl::MutexLock lock(&mutex_);
  mutex_.Await(absl::Condition(
      +[](const size_t* lent) { return *lent == 0; }, &lent_));
}

void Lease::Return(void* lease) {
  auto* const self = static_cast<Lease*>(lease);
  const absl::MutexLock lock(&self->mutex_);
  --self->lent_;
}

}  // namespace mnemosyne

// Tables on the device of the calls that came last: sessions take turns.
#pragma once

#include <array>
#include <cstdint>

#include "absl/status/statusor.h"
#include "base/status_macros.h"
#include "kernels/backend.h"

namespace mnemosyne::kernels::cuda {

// `Tables` has AreOf(call...), whether it is that of a call, and Make(backend, call...), which
// makes it so.
template <typename Tables>
class TableCache {
 public:
  // Valid until the next call. Errors as Tables::Make.
  template <typename... Call>
  absl::StatusOr<Tables*> Get(Backend& backend, const Call&... call) {
    Entry* oldest = &entries_[0];
    for (Entry& entry : entries_) {
      if (entry.used > 0 && entry.tables.AreOf(call...)) {
        entry.used = ++clock_;
        return &entry.tables;
      }
      if (entry.used < oldest->used) oldest = &entry;
    }
    oldest->used = 0;
    MNEMO_RETURN_IF_ERROR(oldest->tables.Make(backend, call...));
    oldest->used = ++clock_;
    return &oldest->tables;
  }

 private:
  struct Entry {
    Tables tables;
    uint64_t used = 0;  // When it was of use last; 0 for one that is of no call.
  };

  std::array<Entry, 16> entries_;
  uint64_t clock_ = 0;
};

}  // namespace mnemosyne::kernels::cuda

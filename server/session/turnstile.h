// Whose turn it is: one holder at a time, the others wait in line without a thread.
#pragma once

#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "base/mutex.h"

namespace mnemosyne::server {

// Grants turns in the order of asking. A session has one: whoever receives, computes or sends a
// step, exports or replaces the state, does so in its turn. Thread-safe.
class Turnstile : public std::enable_shared_from_this<Turnstile> {
 public:
  // A turn; ends when this object goes. Keeps the turnstile alive.
  class Turn {
   public:
    explicit Turn(std::shared_ptr<Turnstile> turnstile) : turnstile_(std::move(turnstile)) {}
    ~Turn() { turnstile_->Next(); }
    Turn(const Turn&) = delete;
    Turn& operator=(const Turn&) = delete;

   private:
    std::shared_ptr<Turnstile> turnstile_;
  };

  using Callback = std::function<void(std::unique_ptr<Turn>)>;

  // The most who wait in line.
  static constexpr size_t kLineMax = 16;

  // Calls `ready` with the turn: at once, on this thread, if it is free; else later, on the thread
  // that ends the turn before. `ready` must not block. Who no longer wants a turn lets it go.
  // ResourceExhausted, and `ready` is never called, if the line is full.
  absl::Status Ask(Callback ready);

  // The turn if it is free now, else null.
  std::unique_ptr<Turn> Try();

 private:
  void Next();

  Mutex mutex_;
  bool taken_ ABSL_GUARDED_BY(mutex_) = false;
  std::list<Callback> line_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace mnemosyne::server

#include "base/fail_point.h"

#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <map>
#include <mutex>
#include <set>
#include <sstream>
#include <string>
#include <thread>

namespace mnemosyne {
namespace {

struct Action {
  enum class Kind { kKill, kDelay, kError } kind = Kind::kKill;
  int value = 0;
  int pass = 0;  // 0 is every pass.
};

// What the environment asks for. Malformed entries are passed over.
class Plan {
 public:
  Plan() {
    if (const char* text = std::getenv("MNEMOSYNE_FAIL_POINTS")) Parse(text);
    if (const char* path = std::getenv("MNEMOSYNE_FAIL_POINT_LOG")) {
      log_ = ::open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    }
  }

  int Pass(std::string_view name) {
    if (actions_.empty() && log_ < 0) return 0;
    Action action;
    {
      const std::lock_guard lock(mutex_);
      if (seen_.emplace(name).second) Tell(std::string(name));
      const auto found = actions_.find(name);
      if (found == actions_.end()) return 0;
      const int pass = ++passes_[found->first];
      action = found->second;
      if (action.pass != 0 && action.pass != pass) return 0;
      if (action.pass == 0 && action.kind == Action::Kind::kKill && pass > 1) return 0;
      if (pass == std::max(action.pass, 1)) Tell("met " + std::string(name));
    }
    switch (action.kind) {
      case Action::Kind::kKill:
        ::kill(::getpid(), SIGKILL);
        ::pause();
        return 0;
      case Action::Kind::kDelay:
        std::this_thread::sleep_for(std::chrono::milliseconds(action.value));
        return 0;
      case Action::Kind::kError:
        return action.value;
    }
    return 0;
  }

 private:
  // A line of the log; in one write, so that lines of two daemons do not mix.
  void Tell(std::string line) {
    line += '\n';
    if (log_ >= 0 && ::write(log_, line.data(), line.size()) < 0) log_ = -1;
  }

  void Parse(const std::string& text) {
    std::istringstream entries(text);
    for (std::string entry; std::getline(entries, entry, ';');) {
      const size_t equals = entry.find('=');
      if (equals == std::string::npos) continue;
      Action action;
      std::string what = entry.substr(equals + 1);
      if (const size_t at = what.find('@'); at != std::string::npos) {
        action.pass = std::atoi(what.c_str() + at + 1);
        what.resize(at);
      }
      const size_t colon = what.find(':');
      if (colon != std::string::npos) action.value = std::atoi(what.c_str() + colon + 1);
      if (what.starts_with("delay")) action.kind = Action::Kind::kDelay;
      if (what.starts_with("error")) action.kind = Action::Kind::kError;
      actions_[entry.substr(0, equals)] = action;
    }
  }

  std::mutex mutex_;
  std::map<std::string, Action, std::less<>> actions_;
  std::map<std::string, int, std::less<>> passes_;
  std::set<std::string, std::less<>> seen_;
  int log_ = -1;
};

}  // namespace

int PassFailPoint(std::string_view name) {
  static Plan& plan = *new Plan();
  return plan.Pass(name);
}

}  // namespace mnemosyne

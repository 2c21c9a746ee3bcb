// A program that is built with the installed client: there is no daemon where it looks for one, and
// it is told so.
#include <chrono>
#include <iostream>

#include "base/error.h"
#include "mnemosyne/client.h"

int main() {
  mnemosyne::ClientOptions options;
  options.connect_timeout = std::chrono::milliseconds(200);
  const auto client = mnemosyne::Client::Connect("unix:/nonexistent/mnemosyne.sock", options);
  if (client.status().code() == absl::StatusCode::kUnavailable) return 0;
  std::cerr << "expected UNAVAILABLE, found " << client.status() << "\n";
  return 1;
}

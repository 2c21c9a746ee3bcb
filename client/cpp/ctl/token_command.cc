#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <string>

#include "client/cpp/ctl/command.h"
#include "client/cpp/ctl/json.h"
#include "proto/codec/access_token.h"

namespace mnemosyne::ctl {
namespace {

struct Arguments {
  std::string tenant;
  std::string role = "user";
  std::string expires;
};

absl::Status Run(const GlobalOptions& options, const Arguments& arguments) {
  const codec::AccessToken token = codec::MakeAccessToken();
  const std::string salt = codec::MakeSalt();
  std::string line =
      fmt::format("token tenant={} role={} id={} salt={} sha256={}", arguments.tenant,
                  arguments.role, token.id, salt, codec::HashSecret(salt, token.secret));
  if (!arguments.expires.empty()) line += " expires=" + arguments.expires;
  if (options.json) {
    PrintJson({{"token", codec::FormatAccessToken(token)}, {"line", line}});
  } else {
    fmt::print(stderr, "The token, for the tenant; it is kept nowhere:\n");
    fmt::print("{}\n", codec::FormatAccessToken(token));
    fmt::print(stderr, "The line for the daemon's access file:\n{}\n", line);
  }
  return absl::OkStatus();
}

}  // namespace

void AddTokenCommand(CLI::App& app, const GlobalOptions& options, Action& action) {
  auto* const command = app.add_subcommand(
      "token", "Make an access token, and the line for the file of mnemosyned --access");
  const auto arguments = std::make_shared<Arguments>();
  command->add_option("tenant", arguments->tenant, "Whom the token is for")
      ->required()
      ->check([](const std::string& name) {
        const bool good = !name.empty() && name.size() <= 64 &&
                          name.find_first_not_of(
                              "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVW"
                              "XYZ0123456789.-_") == std::string::npos;
        return good ? std::string() : "1 to 64 letters, digits and . - _";
      });
  command->add_option("--role", arguments->role, "What it may do")
      ->check(CLI::IsMember({"user", "admin"}))
      ->capture_default_str();
  command->add_option("--expires", arguments->expires,
                      "First day, as YYYY-MM-DD in UTC, on which it is refused");
  command->callback([&options, &action, arguments] {
    action = [&options, arguments] { return Run(options, *arguments); };
  });
}

}  // namespace mnemosyne::ctl

#include "client/cpp/ctl/text.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <string_view>

namespace mnemosyne::ctl {
namespace {

// Whether all cells of a column below its heading are numbers, with or without a unit.
bool IsNumeric(const std::vector<std::vector<std::string>>& rows, size_t column) {
  const auto is_number = [&](const std::vector<std::string>& row) {
    if (column >= row.size()) return false;
    const std::string_view cell = row[column];
    const size_t start = cell.starts_with('-') ? 1 : 0;
    return cell.substr(start, 3) == "inf" ||
           (start < cell.size() && cell[start] >= '0' && cell[start] <= '9');
  };
  return rows.size() > 1 && std::all_of(rows.begin() + 1, rows.end(), is_number);
}

}  // namespace

std::string FormatTable(const std::vector<std::vector<std::string>>& rows) {
  std::vector<size_t> widths;
  for (const auto& row : rows) {
    widths.resize(std::max(widths.size(), row.size()));
    for (size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], row[i].size());
  }
  std::string table;
  for (const auto& row : rows) {
    std::string line;
    for (size_t i = 0; i < row.size(); ++i) {
      const bool right = IsNumeric(rows, i);
      line += right ? fmt::format("{:>{}}  ", row[i], widths[i])
                    : fmt::format("{:<{}}  ", row[i], widths[i]);
    }
    line.erase(line.find_last_not_of(' ') + 1);
    table += line + "\n";
  }
  return table;
}

std::string FormatList(const std::vector<std::pair<std::string, std::string>>& entries) {
  size_t width = 0;
  for (const auto& [name, value] : entries) width = std::max(width, name.size());
  std::string list;
  for (const auto& [name, value] : entries) list += fmt::format("{:<{}}  {}\n", name, width, value);
  return list;
}

std::string FormatCount(int64_t count) {
  const std::string digits = std::to_string(count);
  const size_t first = digits.starts_with('-') ? 1 : 0;
  std::string grouped;
  for (size_t i = 0; i < digits.size(); ++i) {
    if (i > first && (digits.size() - i) % 3 == 0) grouped.push_back(',');
    grouped.push_back(digits[i]);
  }
  return grouped;
}

std::string FormatBytes(double bytes) {
  constexpr std::array<const char*, 5> kUnits = {"B", "KiB", "MiB", "GiB", "TiB"};
  size_t unit = 0;
  while (bytes >= 1024 && unit + 1 < kUnits.size()) {
    bytes /= 1024;
    ++unit;
  }
  return fmt::format("{:.{}f} {}", bytes, unit == 0 || bytes >= 100 ? 0 : 1, kUnits[unit]);
}

std::string FormatSeconds(double seconds) {
  if (seconds < 1e-3) return fmt::format("{:.0f} us", seconds * 1e6);
  if (seconds < 1) return fmt::format("{:.2f} ms", seconds * 1e3);
  return fmt::format("{:.2f} s", seconds);
}

std::string FormatNumber(double value) { return fmt::format("{:g}", value); }

std::string FormatAge(const google::protobuf::Timestamp& time) {
  if (time.seconds() == 0) return "never";
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  const int64_t age = std::max<int64_t>(
      0, std::chrono::duration_cast<std::chrono::seconds>(now).count() - time.seconds());
  if (age < 120) return fmt::format("{} s ago", age);
  if (age < 2 * 3600) return fmt::format("{} min ago", age / 60);
  if (age < 2 * 86'400) return fmt::format("{} h ago", age / 3600);
  return fmt::format("{} days ago", age / 86'400);
}

}  // namespace mnemosyne::ctl

// Tables and numbers for people.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "google/protobuf/timestamp.pb.h"

namespace mnemosyne::ctl {

// Rows of cells, aligned in columns; the first row is the heading. Columns of numbers stand to
// the right.
std::string FormatTable(const std::vector<std::vector<std::string>>& rows);

// Names and their values, a line each.
std::string FormatList(const std::vector<std::pair<std::string, std::string>>& entries);

// Such as `1,234,567`.
std::string FormatCount(int64_t count);

// Such as `1.5 MiB`.
std::string FormatBytes(double bytes);

// Such as `12.3 ms`.
std::string FormatSeconds(double seconds);

// A number as short as it can be without losing a digit, such as `0.001`.
std::string FormatNumber(double value);

// How long ago a time was, such as `3 min ago`; `never` for an unset time.
std::string FormatAge(const google::protobuf::Timestamp& time);

}  // namespace mnemosyne::ctl

#include "server/store/snapshot_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <span>
#include <utility>

#include "base/checksum.h"
#include "base/safetensors.h"
#include "tests/testing/status_matchers.h"

namespace mnemosyne::server {
namespace {

using mnemosyne::testing::IsError;

class SnapshotFileTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = ::testing::TempDir() + "/snapshotXXXXXX";
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  std::filesystem::path WriteSmall() {
    const auto path = folder_ / "small.safetensors";
    auto writer = SnapshotWriter::Create(path, "test", {{"session", "a \"text\" \n"}}, tensors_);
    EXPECT_OK(writer);
    EXPECT_OK((*writer)->Write(std::as_bytes(std::span(floats_))));
    EXPECT_OK((*writer)->Write(std::as_bytes(std::span(counts_))));
    EXPECT_OK((*writer)->Commit());
    return path;
  }

  // Reads a file to its end, as a restore does.
  static absl::Status ReadAll(const std::filesystem::path& path) {
    auto reader = SnapshotReader::Open(path);
    if (!reader.ok()) return reader.status();
    for (const SnapshotTensor& tensor : (*reader)->tensors()) {
      if (tensor.byte_count > 1000) return absl::DataLossError("a tensor grew");
      std::vector<std::byte> bytes(tensor.byte_count);
      const absl::Status read = (*reader)->Read(bytes);
      if (!read.ok()) return read;
    }
    return (*reader)->Finish();
  }

  static std::string Contents(const std::filesystem::path& path) {
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
  }
  std::filesystem::path Put(const std::string& contents) {
    const auto path = folder_ / "damaged.safetensors";
    std::ofstream(path, std::ios::binary) << contents;
    return path;
  }

  const std::vector<float> floats_ = {1, -2, 3.5};
  const std::vector<int64_t> counts_ = {7};
  const std::vector<SnapshotTensor> tensors_ = {
      {.name = "exp_avg/weight", .type = "F32", .shape = {3}, .byte_count = 12},
      {.name = "session/clocks", .type = "I64", .shape = {1}, .byte_count = 8},
      {.name = "session/last_step", .type = "U8", .shape = {0}, .byte_count = 0}};
  std::filesystem::path folder_;
};

TEST_F(SnapshotFileTest, ComesBackAsItWas) {
  auto reader = SnapshotReader::Open(WriteSmall());

  ASSERT_OK(reader);
  EXPECT_EQ((*reader)->texts().at("session"), "a \"text\" \n");
  ASSERT_EQ((*reader)->tensors().size(), 3U);
  EXPECT_EQ((*reader)->tensors()[0].name, "exp_avg/weight");
  EXPECT_EQ((*reader)->tensors()[2].byte_count, 0U);
  std::vector<float> floats(3);
  ASSERT_OK((*reader)->Read(std::as_writable_bytes(std::span(floats))));
  EXPECT_EQ(floats, floats_);
  std::vector<int64_t> counts(1);
  ASSERT_OK((*reader)->Read(std::as_writable_bytes(std::span(counts))));
  EXPECT_EQ(counts, counts_);
  EXPECT_OK((*reader)->Finish());
}

TEST_F(SnapshotFileTest, IsAFileThatOtherToolsOpen) {
  const auto file = Safetensors::Read(WriteSmall(), 1 << 20);

  ASSERT_OK(file);
  const SafetensorsTensor* const tensor = file->Find("exp_avg/weight");
  ASSERT_NE(tensor, nullptr);
  EXPECT_EQ(*file->Floats(*tensor), floats_);
  EXPECT_EQ(file->metadata().at("format"), kSnapshotFormat);
}

TEST_F(SnapshotFileTest, EveryTruncationIsFound) {
  const std::string whole = Contents(WriteSmall());
  for (size_t size = 0; size < whole.size(); ++size) {
    EXPECT_THAT(ReadAll(Put(whole.substr(0, size))), IsError(absl::StatusCode::kDataLoss, ""))
        << "of " << size << " bytes";
  }
  EXPECT_THAT(ReadAll(Put(whole + "x")), IsError(absl::StatusCode::kDataLoss, "too long"));
}

TEST_F(SnapshotFileTest, EveryFlippedBitIsFound) {
  const std::string whole = Contents(WriteSmall());
  for (size_t place = 0; place < whole.size(); ++place) {
    for (int bit = 0; bit < 8; ++bit) {
      std::string damaged = whole;
      damaged[place] = static_cast<char>(damaged[place] ^ (1 << bit));
      EXPECT_THAT(ReadAll(Put(damaged)), IsError(absl::StatusCode::kDataLoss, ""))
          << "byte " << place << " bit " << bit;
    }
  }
}

TEST_F(SnapshotFileTest, AppearsOnlyWhenItIsCommitted) {
  const auto path = folder_ / "never.safetensors";
  {
    auto writer = SnapshotWriter::Create(path, "test", {}, tensors_);
    ASSERT_OK(writer);
    EXPECT_THAT((*writer)->Commit(), IsError(absl::StatusCode::kInternal, "lacks 20 bytes"));
  }
  EXPECT_TRUE(std::filesystem::is_empty(folder_));
}

TEST_F(SnapshotFileTest, RefusesOffsetsAndShapesThatAreNoWholeNumbers) {
  const std::string whole = Contents(WriteSmall());
  for (const auto& [text, wrong] : {std::pair("[0,12]", "[0,1e60]"), std::pair("[0,12]", "[-1,2]"),
                                    std::pair("\"shape\":[3]", "\"shape\":[1e60]")}) {
    uint64_t length = 0;
    std::memcpy(&length, whole.data(), sizeof(length));
    std::string header = whole.substr(sizeof(length), length);
    header.replace(header.find(text), std::strlen(text), wrong);
    length = header.size();
    // The checksum counts its own digits as zeros.
    const std::string field = "\"header_crc32c\":\"";
    const size_t digits = header.find(field) + field.size();
    header.replace(digits, 8, "00000000");
    const uint32_t crc = ExtendCrc32c(Crc32c(std::as_bytes(std::span(&length, 1))),
                                      std::as_bytes(std::span(header)));
    header.replace(digits, 8, fmt::format("{:08x}", crc));
    const std::string front(reinterpret_cast<const char*>(&length), sizeof(length));

    EXPECT_THAT(ReadAll(Put(front + header)), IsError(absl::StatusCode::kDataLoss, "whole number"))
        << wrong;
  }
}

TEST_F(SnapshotFileTest, RefusesAFormatOfTheFuture) {
  std::string whole = Contents(WriteSmall());
  whole.replace(whole.find(kSnapshotFormat), sizeof(kSnapshotFormat) - 1, "mnemosyne-snapshot-9");
  EXPECT_THAT(ReadAll(Put(whole)), IsError(absl::StatusCode::kDataLoss, ""));
}

}  // namespace
}  // namespace mnemosyne::server

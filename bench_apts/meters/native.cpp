// Counts the collectives of a process group in the thread that issues them, without Python.

#include <algorithm>
#include <cstdint>
#include <exception>
#include <map>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include <torch/csrc/distributed/c10d/ProcessGroup.hpp>
#include <torch/csrc/utils/pybind.h>

namespace {

// Operation, root, dtype (-1 without tensors), number of inputs, then bytes of each input and of
// each output.
using Call = std::vector<int64_t>;

// FNV-1a, a word at a time.
struct Hash {
  size_t operator()(const Call& call) const {
    uint64_t hash = 0xcbf29ce484222325u;
    for (int64_t word : call) {
      hash = (hash ^ static_cast<uint64_t>(word)) * 0x100000001b3u;
    }
    return hash ^ (hash >> 32);
  }
};

class Counter {
 public:
  // Never throws: an exception here would end the training.
  void count(const c10d::PreHookArgs& args) {
    thread_local Call call;  // keeps its memory from one collective to the next
    std::string reason;
    try {
      const auto& first = args.input_tensors.empty() ? args.output_tensors : args.input_tensors;
      call.assign({
          static_cast<int64_t>(args.name),
          args.root,
          first.empty() ? -1 : static_cast<int64_t>(first[0].scalar_type()),
          static_cast<int64_t>(args.input_tensors.size()),
      });
      append(call, args.input_tensors);
      append(call, args.output_tensors);
    } catch (const std::exception& error) {
      reason = error.what();
      reason = "ValueError: " + reason.substr(0, reason.find('\n'));
    }
    // Backward passes and communication hooks issue collectives from threads of their own.
    std::lock_guard<std::mutex> guard(mutex_);
    if (calls_++ == 0) {
      first_ = args.op_id;
    }
    last_ = std::max(last_, args.op_id);
    if (reason.empty()) {
      ++counts_[call];
    } else {
      ++unread_[{static_cast<int64_t>(args.name), reason}];
    }
  }

  // All calls so far, number of the first, highest number, and the calls since the last time:
  // those that could be read, and the others by operation and reason.
  py::tuple take() {
    std::unordered_map<Call, int64_t, Hash> counts;
    std::map<std::pair<int64_t, std::string>, int64_t> unread;
    int64_t calls = 0, first = 0, last = 0;
    {
      std::lock_guard<std::mutex> guard(mutex_);
      counts.swap(counts_);
      unread.swap(unread_);
      calls = calls_, first = first_, last = last_;
    }
    py::list list;
    for (const auto& [call, number] : counts) {
      const auto inputs = static_cast<size_t>(call[3]);
      py::object dtype = py::none();
      if (call[2] >= 0) {
        dtype = py::cast(static_cast<at::ScalarType>(call[2]));
      }
      list.append(py::make_tuple(
          call[0], call[1], dtype, sizes(call, 4, 4 + inputs),
          sizes(call, 4 + inputs, call.size()), number));
    }
    py::list others;
    for (const auto& [call, number] : unread) {
      others.append(py::make_tuple(call.first, call.second, number));
    }
    return py::make_tuple(calls, first, last, list, others);
  }

 private:
  static void append(Call& call, const std::vector<at::Tensor>& tensors) {
    for (const auto& tensor : tensors) {
      if (tensor.is_sparse()) {  // its numel() is that of the dense tensor
        throw std::invalid_argument("a sparse tensor, whose bytes are not known");
      }
      call.push_back(tensor.numel() * static_cast<int64_t>(tensor.element_size()));
    }
  }

  static py::tuple sizes(const Call& call, size_t begin, size_t end) {
    py::tuple part(end - begin);
    for (size_t place = begin; place < end; ++place) {
      part[place - begin] = call[place];
    }
    return part;
  }

  std::mutex mutex_;
  std::unordered_map<Call, int64_t, Hash> counts_;
  std::map<std::pair<int64_t, std::string>, int64_t> unread_;
  int64_t calls_ = 0, first_ = 0, last_ = -1;
};

// The hook shares the counter with Python, so that either may go first.
std::shared_ptr<Counter> watch(c10d::ProcessGroup& group, int64_t hook_id) {
  auto counter = std::make_shared<Counter>();
  group.registerPreHook(
      hook_id, [counter](const c10d::PreHookArgs& args) { counter->count(args); });
  return counter;
}

}  // namespace

PYBIND11_MODULE(TORCH_EXTENSION_NAME, module) {
  py::class_<Counter, std::shared_ptr<Counter>>(module, "Counter").def("take", &Counter::take);
  module.def("watch", &watch);
}

/* A CUDA runtime, cuBLAS and NCCL without a GPU, loaded in front of the real ones.
 *
 * torch's own code runs unchanged: allocator, streams, fork checks, DDP's reducer, process groups.
 * Device memory is host memory and copies copy, kernels and products do nothing, collectives move
 * data through shared memory. Launches, copies and waits are counted (fake_count). All other names
 * that torch refers to are made by build.py: they return 0.
 *
 * FAKE_GPUS: how many devices there are. FAKE_GPU_LOG: a file that gets the process id of each
 * process that begins to use CUDA. FAKE_GPU_STRICT: a communicator is destroyed by all its ranks
 * together, as NCCL's is. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "driver_types.h"
#include "vector_types.h"

#define OUT_OF_MEMORY 2
#define NO_DEVICE 100
#define INVALID_DEVICE 101

enum { LAUNCHES, PRODUCTS, TO_DEVICE, TO_HOST, ON_DEVICE, WAITS, DEVICE_WAITS, COLLECTIVES, KINDS };
static const char *kind_names[] = {"launches", "products", "to_device", "to_host", "on_device",
                                   "waits", "device_waits", "collectives"};
static long counts[KINDS];
static void count(int kind) { __atomic_add_fetch(&counts[kind], 1, __ATOMIC_RELAXED); }
long fake_count(int kind) { return kind < KINDS ? counts[kind] : -1; }
const char *fake_kind(int kind) { return kind < KINDS ? kind_names[kind] : NULL; }

static uintptr_t handles = 4096;
static int handle(void *out) {
    *(uintptr_t *)out = __atomic_add_fetch(&handles, 16, __ATOMIC_RELAXED);
    return 0;
}

/* Devices */

static __thread int current;

static int devices(void) {
    const char *all = getenv("FAKE_GPUS"), *chosen = getenv("CUDA_VISIBLE_DEVICES");
    int found = all ? atoi(all) : 1, named = 0;
    if (!chosen)
        return found;
    for (const char *at = chosen; *at; at = at[strcspn(at, ",")] ? at + strcspn(at, ",") + 1 : "")
        named++;
    return named < found ? named : found;
}

int cudaGetDeviceCount(int *number) {
    static int logged;
    const char *path = getenv("FAKE_GPU_LOG");
    FILE *log = path && logged != getpid() ? fopen(path, "a") : NULL;
    if (log) {
        logged = getpid();
        fprintf(log, "%d\n", logged);
        fclose(log);
    }
    *number = devices();
    return *number ? 0 : NO_DEVICE;
}
int cudaGetDevice(int *device) { *device = current; return 0; }
int cudaSetDevice(int device) {
    if (device >= devices())
        return INVALID_DEVICE;
    current = device;
    return 0;
}
int cudaGetDeviceProperties(struct cudaDeviceProp *found, int device) {
    memset(found, 0, sizeof *found);
    strcpy(found->name, "NVIDIA Stand-in");
    memset(&found->uuid, device, sizeof found->uuid);
    found->major = 9;
    found->totalGlobalMem = 4ul << 30;
    found->warpSize = 32;
    found->maxThreadsPerBlock = 1024;
    found->maxThreadsDim[0] = found->maxThreadsDim[1] = 1024;
    found->maxThreadsDim[2] = 64;
    found->maxGridSize[0] = 2147483647;
    found->maxGridSize[1] = found->maxGridSize[2] = 65535;
    found->multiProcessorCount = 132;
    found->maxThreadsPerMultiProcessor = 2048;
    found->sharedMemPerBlock = 49152;
    found->sharedMemPerMultiprocessor = 233472;
    found->sharedMemPerBlockOptin = 232448;
    found->regsPerBlock = found->regsPerMultiprocessor = 65536;
    found->textureAlignment = 512;
    found->pciBusID = device;
    return 0;
}
int cudaDeviceGetAttribute(int *value, int attribute, int device) {
    switch (attribute) {
    case cudaDevAttrComputeCapabilityMajor: *value = 9; break;
    case cudaDevAttrMultiProcessorCount: *value = 132; break;
    case cudaDevAttrWarpSize: *value = 32; break;
    case cudaDevAttrMaxThreadsPerBlock: *value = 1024; break;
    case cudaDevAttrMaxThreadsPerMultiProcessor: *value = 2048; break;
    case cudaDevAttrMaxSharedMemoryPerBlock: *value = 49152; break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = 232448; break;
    case cudaDevAttrMaxBlocksPerMultiprocessor: *value = 32; break;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor: *value = 233472; break;
    case cudaDevAttrMaxRegistersPerBlock:
    case cudaDevAttrMaxRegistersPerMultiprocessor: *value = 65536; break;
    case cudaDevAttrMaxGridDimX: *value = 2147483647; break;
    default: *value = 0;
    }
    return 0;
}
int cudaDeviceGetPCIBusId(char *out, int size, int device) {
    snprintf(out, size, "0000:%02x:00.0", device);
    return 0;
}
int cudaDeviceGetStreamPriorityRange(int *least, int *greatest) {
    *least = 0, *greatest = -5;
    return 0;
}
int cudaDeviceCanAccessPeer(int *can, int device, int peer) { *can = 1; return 0; }
int cudaDriverGetVersion(int *version) { *version = 13000; return 0; }
int cudaRuntimeGetVersion(int *version) { *version = 13000; return 0; }
const char *cudaGetErrorName(int error) { return "cudaError"; }
const char *cudaGetErrorString(int error) {
    return error == NO_DEVICE ? "no CUDA-capable device is detected"
           : error == INVALID_DEVICE ? "invalid device ordinal"
           : error == OUT_OF_MEMORY ? "out of memory" : "stand-in error";
}

/* Memory: an address range for the device and one for pinned pages, so that pointers say which */

#define RANGE (64ul << 30)
static struct range { char *begin, *next; } device_range, pinned_range;
static size_t given;

static void *take(struct range *range, size_t size) {
    static int lock;
    while (__atomic_exchange_n(&lock, 1, __ATOMIC_ACQUIRE))
        ;
    if (!range->begin)
        range->begin = range->next = mmap(NULL, RANGE, PROT_READ | PROT_WRITE,
                                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    void *found = range->next;
    range->next += (size + 511) & ~511ul;
    __atomic_store_n(&lock, 0, __ATOMIC_RELEASE);
    return found;
}
static int within(const struct range *range, const void *pointer) {
    return range->begin && (char *)pointer >= range->begin && (char *)pointer < range->next;
}
int cudaMalloc(void **pointer, size_t size) {
    *pointer = NULL;
    if (given + size > 4ul << 30)
        return OUT_OF_MEMORY;
    given += size;
    *pointer = take(&device_range, size);
    return 0;
}
int cudaHostAlloc(void **pointer, size_t size, unsigned flags) {
    *pointer = take(&pinned_range, size);
    return 0;
}
int cudaGetSymbolAddress(void **pointer, const void *symbol) {
    *pointer = take(&device_range, 4096);
    return 0;
}
int cudaMemGetInfo(size_t *left, size_t *total) {
    *total = 4ul << 30, *left = *total - given;
    return 0;
}
int cudaPointerGetAttributes(struct cudaPointerAttributes *found, const void *pointer) {
    memset(found, 0, sizeof *found);
    found->device = current;
    found->type = within(&device_range, pointer) ? cudaMemoryTypeDevice
                  : within(&pinned_range, pointer) ? cudaMemoryTypeHost
                  : cudaMemoryTypeUnregistered;
    if (found->type != cudaMemoryTypeUnregistered)
        found->devicePointer = (void *)pointer;
    return 0;
}
int cudaMemcpy(void *to, const void *from, size_t size, int kind) {
    int there = within(&device_range, to), here = within(&device_range, from);
    if (there || here)
        count(!here ? TO_DEVICE : there ? ON_DEVICE : TO_HOST);
    memcpy(to, from, size);
    return 0;
}
int cudaMemcpyAsync(void *to, const void *from, size_t size, int kind, void *stream) {
    return cudaMemcpy(to, from, size, kind);
}
int cudaMemcpyPeerAsync(void *to, int there, const void *from, int here, size_t size, void *s) {
    return cudaMemcpy(to, from, size, 0);
}
int cudaMemset(void *to, int value, size_t size) { memset(to, value, size); return 0; }
int cudaMemsetAsync(void *to, int value, size_t size, void *stream) {
    return cudaMemset(to, value, size);
}

/* Streams, events and kernels: everything is over when it has begun */

int cudaStreamCreate(void **stream) { return handle(stream); }
int cudaStreamCreateWithFlags(void **stream, unsigned flags) { return handle(stream); }
int cudaStreamCreateWithPriority(void **stream, unsigned flags, int p) { return handle(stream); }
int cudaStreamGetPriority(void *stream, int *priority) { *priority = 0; return 0; }
int cudaStreamIsCapturing(void *stream, int *is) { *is = 0; return 0; }
int cudaStreamGetCaptureInfo(void *stream, int *is, unsigned long long *id, void *graph,
                             void *nodes, void *edges, size_t *number) {
    *is = 0;
    return 0;
}
int cudaEventCreate(void **event) { return handle(event); }
int cudaEventCreateWithFlags(void **event, unsigned flags) { return handle(event); }
int cudaEventElapsedTime(float *ms, void *begin, void *end) { *ms = 1; return 0; }
int cudaStreamSynchronize(void *stream) { count(WAITS); return 0; }
int cudaDeviceSynchronize(void) { count(DEVICE_WAITS); return 0; }
int cudaEventSynchronize(void *event) { count(WAITS); return 0; }
int cudaStreamAddCallback(void *stream, void (*call)(void *, int, void *), void *data, unsigned f) {
    call(stream, 0, data);
    return 0;
}
int cudaLaunchHostFunc(void *stream, void (*call)(void *), void *data) { call(data); return 0; }
int cudaDeviceGetDefaultMemPool(void **pool, int device) { return handle(pool); }

static int nothing(void) { return 0; }
int cudaGetDriverEntryPointByVersion(const char *name, void **found, unsigned version,
                                     unsigned long long flags, int *status) {
    *found = (void *)nothing;
    if (status)
        *status = 0;
    return 0;
}
int cudaFuncGetAttributes(struct cudaFuncAttributes *found, const void *function) {
    memset(found, 0, sizeof *found);
    found->maxThreadsPerBlock = 1024;
    found->numRegs = 32;
    found->binaryVersion = found->ptxVersion = 90;
    return 0;
}
int cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int *n, const void *f, int block,
                                                           size_t shared, unsigned flags) {
    *n = 4;
    return 0;
}
int cudaOccupancyMaxActiveBlocksPerMultiprocessor(int *n, const void *f, int block, size_t s) {
    *n = 4;
    return 0;
}
void **__cudaRegisterFatBinary(void *binary) {
    static void *fat[8];
    return fat;
}
static __thread struct { dim3 grid, block; size_t shared; void *stream; } launch;
unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared, void *stream) {
    launch.grid = grid, launch.block = block, launch.shared = shared, launch.stream = stream;
    return 0;
}
int __cudaPopCallConfiguration(dim3 *grid, dim3 *block, size_t *shared, void *stream) {
    *grid = launch.grid, *block = launch.block, *shared = launch.shared;
    *(void **)stream = launch.stream;
    return 0;
}
int __cudaGetKernel(void **kernel, const void *function) { *kernel = (void *)function; return 0; }
int __cudaLaunchKernel(void) { count(LAUNCHES); return 0; }
int cudaLaunchKernel(void) { count(LAUNCHES); return 0; }
int cudaLaunchKernelExC(void) { count(LAUNCHES); return 0; }
int cudaLaunchCooperativeKernel(void) { count(LAUNCHES); return 0; }

/* cuBLAS */

int cublasCreate_v2(void **made) { return handle(made); }
int cublasGetMathMode(void *blas, int *mode) { *mode = 0; return 0; }
int cublasGetPointerMode_v2(void *blas, int *mode) { *mode = 0; return 0; }
#define PRODUCT(name) int name(void) { count(PRODUCTS); return 0; }
PRODUCT(cublasSgemm_v2) PRODUCT(cublasDgemm_v2) PRODUCT(cublasGemmEx) PRODUCT(cublasSgemmEx)
PRODUCT(cublasSgemv_v2) PRODUCT(cublasDgemv_v2) PRODUCT(cublasSdot_v2) PRODUCT(cublasDdot_v2)
PRODUCT(cublasDotEx) PRODUCT(cublasGemmStridedBatchedEx) PRODUCT(cublasSgemmStridedBatched)
PRODUCT(cublasDgemmStridedBatched) PRODUCT(cublasLtMatmul)
int cublasLtMatmulDescCreate(void **made) { return handle(made); }
int cublasLtMatrixLayoutCreate(void **made) { return handle(made); }
int cublasLtMatmulPreferenceCreate(void **made) { return handle(made); }
int cublasLtMatmulAlgoGetHeuristic(void *blas, void *operation, void *a, void *b, void *c, void *d,
                                   void *preference, int wanted, void *results, int *found) {
    *found = 1;
    memset(results, 0, 64);
    return 0;
}
size_t cublasLtGetVersion(void) { return 130100; }

/* NCCL: each rank writes its part into shared memory, and all read */

#define PART (64ul << 20)
typedef struct { int arrived, round, leaving; } Meeting;
typedef struct { int rank, size, round; Meeting *meeting; char *parts; } Comm;
typedef struct { char name[128]; } Id;

static const int widths[] = {1, 1, 4, 4, 8, 8, 2, 4, 8, 2, 1, 1};

static void meet(Comm *comm) {
    int round = comm->round = !comm->round;
    if (__atomic_add_fetch(&comm->meeting->arrived, 1, __ATOMIC_ACQ_REL) == comm->size) {
        comm->meeting->arrived = 0;
        __atomic_store_n(&comm->meeting->round, round, __ATOMIC_RELEASE);
    } else
        while (__atomic_load_n(&comm->meeting->round, __ATOMIC_ACQUIRE) != round)
            usleep(50);
}
static char *part(Comm *comm, int rank) { return comm->parts + rank * PART; }
static int joined(Comm **out, int size, const char *name, int rank) {
    Comm *comm = calloc(1, sizeof *comm);
    int file = shm_open(name, O_RDWR | O_CREAT, 0600);
    size_t bytes = 4096 + size * PART;
    if (file < 0 || ftruncate(file, bytes))
        return 2;
    char *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, file, 0);
    close(file);
    if (memory == MAP_FAILED)
        return 2;
    comm->rank = rank, comm->size = size;
    comm->meeting = (Meeting *)memory, comm->parts = memory + 4096;
    meet(comm);
    if (!rank)
        shm_unlink(name);
    *out = comm;
    return 0;
}
int ncclGetVersion(int *version) { *version = 22900; return 0; }
int ncclGetUniqueId(Id *id) {
    memset(id, 0, sizeof *id);
    handle(&handles);
    snprintf(id->name, sizeof id->name, "/fake-gpu-%d-%lx", getpid(), (long)handles);
    return 0;
}
int ncclCommInitRank(Comm **out, int size, Id id, int rank) {
    return joined(out, size, id.name, rank);
}
int ncclCommInitRankConfig(Comm **out, int size, Id id, int rank, void *settings) {
    return joined(out, size, id.name, rank);
}
int ncclCommInitRankScalable(Comm **out, int size, int rank, int ids, Id *id, void *settings) {
    return joined(out, size, id->name, rank);
}
int ncclCommSplit(Comm *parent, int color, int key, Comm **out, void *settings) {
    char name[128];
    if (!parent->rank) {
        handle(&handles);
        snprintf(part(parent, 0), 128, "/fake-gpu-%d-%lx", getpid(), (long)handles);
    }
    meet(parent);
    strcpy(name, part(parent, 0));
    meet(parent);
    return joined(out, parent->size, name, parent->rank);
}
int ncclCommDestroy(Comm *comm) {
    if (getenv("FAKE_GPU_STRICT")) {
        __atomic_add_fetch(&comm->meeting->leaving, 1, __ATOMIC_ACQ_REL);
        while (__atomic_load_n(&comm->meeting->leaving, __ATOMIC_ACQUIRE) < comm->size)
            usleep(200);
    }
    return 0;
}
int ncclCommCount(Comm *comm, int *size) { *size = comm->size; return 0; }
int ncclCommUserRank(Comm *comm, int *rank) { *rank = comm->rank; return 0; }
int ncclCommGetAsyncError(Comm *comm, int *error) { *error = 0; return 0; }
const char *ncclGetErrorString(int error) { return "stand-in error"; }
const char *ncclGetLastError(Comm *comm) { return "stand-in error"; }

#define FOLD(type) for (size_t i = 0; i < number; i++) { \
    type *x = (type *)into + i, y = ((const type *)from)[i]; \
    *x = operation == 1 ? *x * y : operation == 2 ? (*x > y ? *x : y) \
         : operation == 3 ? (*x < y ? *x : y) : *x + y; } break
static void fold(char *into, const char *from, size_t number, int type, int operation) {
    switch (type) {
    case 0: FOLD(signed char);
    case 1: FOLD(unsigned char);
    case 2: FOLD(int);
    case 3: FOLD(unsigned);
    case 4: FOLD(long);
    case 5: FOLD(unsigned long);
    case 7: FOLD(float);
    case 8: FOLD(double);
    }
}
/* Gives this rank `number` elements from the place `first` of what all ranks' parts add up to. */
static int reduced(Comm *comm, const void *from, size_t all, void *to, size_t first, size_t number,
                   int type, int operation) {
    size_t width = widths[type];
    count(COLLECTIVES);
    memcpy(part(comm, comm->rank), from, all * width);
    meet(comm);
    char *sum = malloc(number * width + 1);
    memcpy(sum, part(comm, 0) + first * width, number * width);
    for (int rank = 1; rank < comm->size; rank++)
        fold(sum, part(comm, rank) + first * width, number, type, operation);
    meet(comm);
    memcpy(to, sum, number * width);
    free(sum);
    return 0;
}
int ncclAllReduce(const void *from, void *to, size_t n, int type, int operation, Comm *comm,
                  void *stream) {
    return reduced(comm, from, n, to, 0, n, type, operation);
}
int ncclReduce(const void *from, void *to, size_t n, int type, int operation, int root, Comm *comm,
               void *stream) {
    return reduced(comm, from, n, to, 0, n, type, operation);
}
int ncclReduceScatter(const void *from, void *to, size_t n, int type, int operation, Comm *comm,
                      void *stream) {
    return reduced(comm, from, n * comm->size, to, n * comm->rank, n, type, operation);
}
int ncclBroadcast(const void *from, void *to, size_t n, int type, int root, Comm *comm, void *s) {
    count(COLLECTIVES);
    if (comm->rank == root)
        memcpy(part(comm, root), from, n * widths[type]);
    meet(comm);
    memcpy(to, part(comm, root), n * widths[type]);
    meet(comm);
    return 0;
}
int ncclBcast(void *data, size_t n, int type, int root, Comm *comm, void *stream) {
    return ncclBroadcast(data, data, n, type, root, comm, stream);
}
int ncclAllGather(const void *from, void *to, size_t n, int type, Comm *comm, void *stream) {
    size_t bytes = n * widths[type];
    count(COLLECTIVES);
    memcpy(part(comm, comm->rank), from, bytes);
    meet(comm);
    for (int rank = 0; rank < comm->size; rank++)
        memcpy((char *)to + rank * bytes, part(comm, rank), bytes);
    meet(comm);
    return 0;
}
int ncclRedOpCreatePreMulSum(int *made, void *scale, int type, int where, Comm *comm) {
    *made = 0;
    return 0;
}

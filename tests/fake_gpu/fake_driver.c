/* The driver's libraries as far as programs look for them: libcuda.so.1 and libnvidia-ml.so.1. */
#include <stdio.h>
#include <stdlib.h>

static int devices(void) {
    const char *all = getenv("FAKE_GPUS");
    return all ? atoi(all) : 1;
}
int cuInit(unsigned flags) { return 0; }
int cuDriverGetVersion(int *version) { *version = 13000; return 0; }
int cuDeviceGetCount(int *number) { *number = devices(); return 0; }
int nvmlInit(void) { return 0; }
int nvmlInit_v2(void) { return 0; }
int nvmlDeviceGetCount_v2(unsigned *number) { *number = devices(); return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **found) {
    *found = (void *)(long)(index + 1);
    return 0;
}
int nvmlDeviceGetUUID(void *device, char *out, unsigned size) {
    int index = (long)device - 1;
    snprintf(out, size, "GPU-%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x",
             index, index, index, index, index, index, index, index, index, index, index, index,
             index, index, index, index);
    return 0;
}

/* The driver's libraries as far as programs look for them: libcuda.so.1 and libnvidia-ml.so.1.
 *
 * Every GPU takes 250 W and is held down by its limit of power. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static int devices(void) {
    const char *all = getenv("FAKE_GPUS");
    return all ? atoi(all) : 1;
}
int cuInit(unsigned flags) { return 0; }
int cuDriverGetVersion(int *version) { *version = 13000; return 0; }
int cuDeviceGetCount(int *number) { *number = devices(); return 0; }
int nvmlInit(void) { return 0; }
int nvmlInit_v2(void) { return 0; }
int nvmlInitWithFlags(unsigned flags) { return 0; }
int nvmlDeviceGetHandleByUUID(const char *uuid, void **found) {
    *found = (void *)1;
    return strncmp(uuid, "GPU-", 4) != 0;
}
int nvmlDeviceGetTotalEnergyConsumption(void *device, unsigned long long *millijoules) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    *millijoules = 250ull * (1000 * now.tv_sec + now.tv_nsec / 1000000);
    return 0;
}
int nvmlDeviceGetPowerUsage(void *device, unsigned *milliwatts) { *milliwatts = 250000; return 0; }
int nvmlDeviceGetTemperature(void *device, int sensor, unsigned *celsius) {
    *celsius = 60;
    return 0;
}
int nvmlDeviceGetClockInfo(void *device, int kind, unsigned *megahertz) {
    *megahertz = 1500;
    return 0;
}
int nvmlDeviceGetMemoryInfo(void *device, unsigned long long *total_free_used) {
    total_free_used[2] = 1ull << 30;
    return 0;
}
int nvmlDeviceGetCurrentClocksThrottleReasons(void *device, unsigned long long *reasons) {
    *reasons = 4; /* a limit of power */
    return 0;
}
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

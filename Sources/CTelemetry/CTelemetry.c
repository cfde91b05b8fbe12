#include "CTelemetry.h"

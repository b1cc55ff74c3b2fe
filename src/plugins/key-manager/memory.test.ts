import { describeKeyManager } from './conformance.ts';
import { MemoryKeyManager } from './memory.ts';

describeKeyManager('memory', async () => ({
  open: async () => new MemoryKeyManager(),
  isDurable: false,
  isExportable: true,
}));

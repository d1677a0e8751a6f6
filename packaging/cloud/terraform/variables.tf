variable "bucket" {
  description = "Name of the bucket"
  type        = string
}

variable "prefix" {
  description = "Prefix of repository.location, without slashes at its ends"
  type        = string

  validation {
    condition     = length(var.prefix) > 0 && trim(var.prefix, "/") == var.prefix
    error_message = "A prefix is needed, without slashes at its ends."
  }
}

variable "name" {
  description = "Start of the roles' names"
  type        = string
  default     = "pgproof"
}

variable "trust" {
  description = "For each of agent, verifier, restorer and pruner: who may assume its role, as a policy in JSON"
  type        = map(string)
}

# Beside the key, since the ARN of one that is made in the same plan is not known before it is applied.
variable "use_kms_key" {
  description = "Whether the bucket is encrypted with kms_key; otherwise with S3's own keys"
  type        = bool
  default     = false
}

variable "kms_key" {
  description = "ARN of the KMS key, with use_kms_key"
  type        = string
  default     = null
}

variable "stale_upload_days" {
  description = "Uploads that nobody completed are aborted after so many days: longer than any backup takes"
  type        = number
  default     = 7
}

variable "older_version_days" {
  description = "How long a version stays that was written over or deleted: the time to find out and undo it"
  type        = number
  default     = 35
}
